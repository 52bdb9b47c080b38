import os
import signal
import sys
import threading

import pytest

import pyro_vae
from pyro_vae.errors import FailedRun
from pyro_vae.training.interrupt import deferred_interrupt, import_whole


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


def test_an_interrupt_that_nothing_has_checked_is_raised_at_the_end():
    with pytest.raises(KeyboardInterrupt), deferred_interrupt():
        os.kill(os.getpid(), signal.SIGINT)


def test_an_import_is_not_cut_off(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    kill = "import os, signal\nfor _ in range(2): os.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "slow_to_import.py").write_text(f"{kill}last_line = True\n")
    with pytest.raises(KeyboardInterrupt):
        import_whole("slow_to_import")
    assert sys.modules.pop("slow_to_import").last_line


def test_the_first_use_of_the_package_is_not_cut_off(tmp_path, monkeypatch):
    """`pyro_vae.fit` imports torch and Pyro."""
    monkeypatch.setattr(pyro_vae, "__path__", [*pyro_vae.__path__, str(tmp_path)])
    monkeypatch.setitem(pyro_vae._HOME, "last_line", "slow_to_import")
    kill = "import os, signal\nfor _ in range(2): os.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "slow_to_import.py").write_text(f"{kill}last_line = True\n")
    with pytest.raises(KeyboardInterrupt):
        pyro_vae.last_line  # noqa: B018
    assert sys.modules.pop("pyro_vae.slow_to_import").last_line


def test_a_module_that_is_half_imported_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    with pytest.raises(FailedRun, match=r"torch\._dynamo.*restart Python"):
        import_whole("torch._dynamo")


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
