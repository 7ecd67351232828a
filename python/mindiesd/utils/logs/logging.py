"""The logger "mindiesd" under the path that scripts import it from."""
import logging

logger = logging.getLogger("mindiesd")
