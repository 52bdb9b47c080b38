import os
import signal
import threading

import pytest

from pyro_vae.interrupt import deferred_interrupt


def test_the_first_interrupt_waits_for_the_check_and_the_second_does_not():
    before = signal.getsignal(signal.SIGINT)
    done = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupt() as check:  # noqa: PT012
        check()
        os.kill(os.getpid(), signal.SIGINT)
        done.append("went on")
        check()
        done.append("never")
    assert done == ["went on"]
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt), deferred_interrupt():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        done.append("never")
    assert done == ["went on"]


def test_outside_the_main_thread_it_changes_nothing():
    checked = []

    def body():
        with deferred_interrupt() as check:
            check()
            checked.append(True)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert checked == [True]
