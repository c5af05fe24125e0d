import logging
import threading

from filelock import FileLock

from asyrp_lit.files import hold_alone


def test_who_waits_says_so_and_goes_on_when_the_holder_is_done(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    held, order = FileLock(tmp_path / "x.lock"), []

    def wait():
        with hold_alone(FileLock(tmp_path / "x.lock"), "filling x"):
            order.append("waited")

    with held:
        thread = threading.Thread(target=wait)
        thread.start()
        while "waiting for another process that is filling x" not in caplog.text:
            thread.join(0.01)
            assert thread.is_alive()
        order.append("held")
    thread.join()
    assert order == ["held", "waited"]
    assert caplog.text.count("waiting") == 1


def test_a_free_lock_is_taken_in_silence_and_given_back_after_an_error(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    lock = FileLock(tmp_path / "x.lock")
    try:
        with hold_alone(lock, "filling x"):
            assert lock.is_locked
            raise KeyError
    except KeyError:
        pass
    assert not lock.is_locked
    assert not caplog.text
