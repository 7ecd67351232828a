"""Whether there is an Ascend card, under the path that scripts import it from."""


def is_npu_available() -> bool:
    """False: aerogel runs elsewhere."""
    return False
