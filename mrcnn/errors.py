"""The one exception that the command line shows without a traceback."""


class UserError(Exception):
    """Something that the user can mend.

    The message names the file, the field or id, the value, and the fix, in a few lines.
    """
