"""What a command shows on a terminal."""
import os
import pty
import subprocess


def shown_on_a_terminal(command) -> str:
    """stderr of a command that succeeds, where it is a terminal; without the escape that clears the rest of a line."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=follower)
    os.close(follower)
    seen = b""
    try:
        while chunk := os.read(leader, 65536):
            seen += chunk
    except OSError:  # the end, on Linux
        pass
    os.close(leader)
    assert process.wait(60) == 0
    return seen.decode().replace("\x1b[K", "")
