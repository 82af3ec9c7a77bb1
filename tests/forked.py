"""Stands in for `subprocess`: `train.py` in a process, without the seconds of its imports."""

import os
import sys
import tempfile
from subprocess import STDOUT, CompletedProcess

from gloo import forking, take_over

__all__ = ["STDOUT", "Popen", "run"]


class Popen:
    """`python train.py ...`; what it prints comes to one place, here when it has ended.

    Locks are not handed on by `pass_fds`: the process that waits here keeps them.
    """

    def __init__(self, command, *, stdout=None, stderr=None, env=None, pass_fds=()):
        self._printed = None if stdout else tempfile.NamedTemporaryFile()  # noqa: SIM115  closed in wait
        said = (stdout or self._printed).name
        arguments = (command[2:], dict(env or os.environ), said)
        self._process = forking().Process(target=_enter, args=arguments)
        self._process.start()

    def send_signal(self, number):
        os.kill(self._process.pid, number)

    def wait(self):
        self._process.join()
        if self._printed is not None:
            with self._printed:
                os.write(1, self._printed.read())
        return self._process.exitcode


def run(command, *, check, **settings):
    """What `subprocess.run` does with `python train.py ...`."""
    assert not check
    return CompletedProcess(command, Popen(command, **settings).wait())


def _enter(arguments, environment, said):
    take_over(environment)
    out = os.open(said, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    import train

    sys.argv[1:] = arguments
    train.main()
