"""The page of `mrcnn serve`, its Starlette application, and how uvicorn runs it."""
