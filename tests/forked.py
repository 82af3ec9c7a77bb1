"""Stands in for `subprocess`: `train.py` in a process, without the seconds of its imports."""

import os
import sys
import tempfile
from subprocess import STDOUT, CompletedProcess

from gloo import forking, take_over

__all__ = ["STDOUT", "run"]


def run(command, *, check, stdout=None, stderr=None, env=None, pass_fds=()):
    """What `subprocess.run` does with `python train.py ...`; output goes to one place.

    Locks are not handed on by `pass_fds`: the process that waits here keeps them.
    """
    assert not check
    with tempfile.NamedTemporaryFile() as printed:
        said = stdout.name if stdout else printed.name
        arguments = (command[2:], dict(env or os.environ), said)
        process = forking().Process(target=_enter, args=arguments)
        process.start()
        process.join()
        os.write(1, printed.read())
    return CompletedProcess(command, process.exitcode)


def _enter(arguments, environment, said):
    take_over(environment)
    out = os.open(said, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    import train

    sys.argv[1:] = arguments
    train.main()
