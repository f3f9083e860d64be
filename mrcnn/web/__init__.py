"""The page of `mrcnn serve`, and the server behind it."""

from mrcnn.web.server import HOST, Server, ServerEnds

__all__ = ["HOST", "Server", "ServerEnds"]
