"""What notebooks import to run an event loop inside of another. Here loops nest by themselves."""


def apply(loop=None):
    pass
