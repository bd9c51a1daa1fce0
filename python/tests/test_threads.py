"""The GIL, threads, signals and forks."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import olmo_infer

# Where no folder `olmo_infer` hides the package that is installed.
HERE = os.path.dirname(__file__)
MANY = [[n % 250 + 1] * 1500 for n in range(64)]


def test_other_threads_run_while_a_model_computes(demo):
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    begun = time.perf_counter()
    demo.score(MANY[:8], chunk=2048)
    ended = time.perf_counter()
    stop.set()
    thread.join()
    within = [at for at in ticks if begun < at < ended]
    assert len(within) > 5, (len(within), ended - begun)


def test_threads_share_a_model(demo):
    expected = demo.logits(MANY[0][:300])
    found = [None] * 6

    def run(number):
        found[number] = demo.logits(MANY[0][:300], chunk=64)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((logits == expected).all() for logits in found)


def test_session_in_use_by_another_thread_is_refused(demo):
    session = demo.session(2000, chunk=64)
    begun = threading.Event()

    def run():
        begun.set()
        session.prefill(MANY[0])

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    refused = False
    while thread.is_alive() and not refused:
        try:
            session.position
        except olmo_infer.NotRun as error:
            refused = "in use by another thread" in str(error)
    thread.join()
    assert refused and len(session) == 1500


def test_progress_is_called_and_its_exceptions_end_the_call(demo):
    calls = []
    scores = demo.score([[1, 2, 3], [1, 2, 4], [5]], progress=lambda *call: calls.append(call))
    # [1, 2] is evaluated once, and nothing of [5].
    assert sum(tokens for tokens, _ in calls) == 2 and calls[-1][1] == len(scores) == 3

    def progress(tokens, items):
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        demo.score(MANY, progress=progress)
    with pytest.raises(olmo_infer.NotRun, match="end that first, or open the model twice"):
        demo.score([[1, 2]], progress=lambda *_: demo.logits([1]))
    # The model still works.
    assert len(demo.score([[1, 2]])) == 1


def interrupted(code: str, demo_path) -> subprocess.CompletedProcess:
    """Sends SIGINT to a program in the middle of `code`."""
    # A program that a shell runs in the background ignores SIGINT, and so would its children.
    program = f"""
import signal, sys, time
import olmo_infer
signal.signal(signal.SIGINT, signal.default_int_handler)
model = olmo_infer.Model({str(demo_path)!r}, threads=1)
session = model.session(2048, chunk=16)
session.prefill([1, 2, 3])
many = [[n % 250 + 1, n // 250 + 1] + [n % 250 + 1] * 1500 for n in range(2000)]
print("ready", flush=True)
begun = time.perf_counter()
try:
{textwrap.indent(textwrap.dedent(code), "    ")}
except KeyboardInterrupt:
    print("interrupted", len(session), flush=True)
    print(model.logits([1]).shape, session.decode(4).shape, flush=True)
"""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", program], cwd=HERE, **pipes) as child:
        try:
            assert child.stdout.readline() == "ready\n", child.stderr.read()
            time.sleep(0.3)
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=60)
        finally:
            # One that did not heed the signal must not outlive the test.
            child.kill()
    return subprocess.CompletedProcess(child.args, child.returncode, out, err)


@pytest.mark.parametrize(
    "code",
    [
        "model.score(many)",
        "while True: session.prefill([1] * 2045); session.truncate(3)",
        "while True: model.logits([1] * 2048, chunk=16)",
        "while True: model.hidden([1] * 2048, 1, chunk=16)",
        "while True: list(model.generate([1], max_tokens=2000, temperature=5.0))",
    ],
)
def test_ctrl_c_ends_a_call(demo_path, code):
    ended = interrupted(code, demo_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["interrupted 3", "(1, 256) (256,)"], ended.stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_process_is_refused_and_opens_its_own_model(demo_path):
    program = f"""
import os, sys
import olmo_infer
model = olmo_infer.Model({str(demo_path)!r}, threads=2)
expected = model.logits([1, 2]).tobytes()
child = os.fork()
if child == 0:
    try:
        model.logits([1, 2])
    except olmo_infer.NotRun as error:
        good = olmo_infer.Model(model.path).logits([1, 2]).tobytes() == expected
        os._exit(0 if good and "open the model in this process" in str(error) else 2)
    os._exit(1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


def test_memory_that_is_not_there_is_an_error(demo_path):
    program = f"""
import resource
import olmo_infer
model = olmo_infer.Model({str(demo_path)!r}, threads=1)
model.logits([1])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), -1))
for call in (lambda: model.session(2048), lambda: model.logits([1] * 2048), lambda: model.hidden([1] * 2048, 1)):
    try:
        call()
    except MemoryError as error:
        assert isinstance(error, olmo_infer.OutOfMemory), error
        print("refused")
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True, timeout=60)
    assert ended.stdout.splitlines() == ["refused"] * 3, ended.stderr
