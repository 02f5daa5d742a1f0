#!/usr/bin/python3
# needs: /usr/bin/python3
# time: 120
"""threading, subprocess, multiprocessing, asyncio, mmap, signal, pty, sqlite3."""
import asyncio, ctypes, fcntl, json, mmap, multiprocessing, os, pty, queue, resource, select, selectors, shutil, signal, socket
import sqlite3, stat, struct, subprocess, sys, tempfile, termios, threading, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor


def square(n):
    return n * n


def worker(inbox, outbox):
    for item in iter(inbox.get, None):
        outbox.put(item * 2)


def count_in(value, lock):
    for _ in range(200):
        with lock:
            value.value += 1


def threads():
    lock, total, box = threading.Lock(), [0], queue.Queue()

    def add():
        for _ in range(500):
            with lock:
                total[0] += 1
        box.put(threading.get_ident())

    all_threads = [threading.Thread(target=add) for _ in range(20)]
    [t.start() for t in all_threads]
    [t.join() for t in all_threads]
    print("threads", total[0], box.qsize())
    event, barrier, gate = threading.Event(), threading.Barrier(4), threading.Semaphore(2)
    passed = []

    def meet():
        barrier.wait()
        event.wait()
        with gate:
            passed.append(1)

    group = [threading.Thread(target=meet) for _ in range(4)]
    [t.start() for t in group]
    event.set()
    [t.join() for t in group]
    condition, ready = threading.Condition(), []
    waiter = threading.Thread(target=lambda: (condition.acquire(), condition.wait_for(lambda: ready, 5), condition.release()))
    waiter.start()
    with condition:
        ready.append(1)
        condition.notify_all()
    waiter.join()
    timer = threading.Timer(0.01, lambda: passed.append("timer"))
    timer.start()
    timer.join()
    print("sync", passed, event.wait(0), condition.acquire(False))
    with ThreadPoolExecutor(8) as pool:
        print("pool", sum(pool.map(square, range(100))))


def processes():
    run = subprocess.run(["sh", "-c", "cat; echo err >&2; exit 3"], input=b"in\n", capture_output=True)
    print(run.stdout, run.stderr, run.returncode)
    print(subprocess.run(["sh", "-c", "kill -9 $$"]).returncode)
    try:
        subprocess.run(["sleep", "5"], timeout=0.1)
    except subprocess.TimeoutExpired:
        print("timed out")
    try:
        subprocess.run(["/no/such"])
    except FileNotFoundError as error:
        print(error.errno)
    first = subprocess.Popen(["seq", "1", "1000"], stdout=subprocess.PIPE)
    second = subprocess.Popen(["wc", "-l"], stdin=first.stdout, stdout=subprocess.PIPE)
    first.stdout.close()
    print(second.communicate()[0].strip(), first.wait())
    child = subprocess.Popen(["sh", "-c", "trap 'exit 12' TERM; echo up; while :; do sleep 0.05; done"], stdout=subprocess.PIPE)
    child.stdout.readline()
    child.terminate()
    print(child.wait(), os.system("exit 4") >> 8, subprocess.getoutput("echo got"))
    both = subprocess.Popen(["sh", "-c", "ls -l /proc/self/fd | wc -l"], stdout=subprocess.PIPE, close_fds=True, start_new_session=True, cwd="/")
    print(both.communicate()[0].strip())
    for method in ["fork", "spawn", "forkserver"]:
        context = multiprocessing.get_context(method)
        inbox, outbox = context.Queue(), context.Queue()
        workers = [context.Process(target=worker, args=(inbox, outbox)) for _ in range(2)]
        [w.start() for w in workers]
        [inbox.put(n) for n in range(10)]
        print(method, sorted(outbox.get(timeout=20) for _ in range(10)))
        [inbox.put(None) for _ in workers]
        [w.join() for w in workers]
        print([w.exitcode for w in workers])
        value, lock = context.Value("i", 0), context.Lock()
        counters = [context.Process(target=count_in, args=(value, lock)) for _ in range(2)]
        [c.start() for c in counters]
        [c.join() for c in counters]
        print("shared", value.value)
    with ProcessPoolExecutor(2) as pool:
        print("pool", list(pool.map(square, range(5))))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(square, range(5)), pool.apply_async(square, (9,)).get(10))
    left, right = multiprocessing.Pipe()
    pid = os.fork()
    if pid == 0:
        right.send({"from": "child"})
        os._exit(6)
    print(left.recv(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


async def loop():
    process = await asyncio.create_subprocess_exec("tr", "a-z", "A-Z", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    print((await process.communicate(b"asyncio\n"))[0], process.returncode)

    async def serve(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, "socket")

    async def ask(text):
        reader, writer = await asyncio.open_unix_connection("socket")
        writer.write(text.encode() + b"\n")
        answer = await reader.read()
        writer.close()
        return answer

    print(await asyncio.gather(*[ask(f"client {n}") for n in range(10)]))
    server.close()
    read, write = os.pipe()
    event_loop, got = asyncio.get_running_loop(), asyncio.Event()
    event_loop.add_reader(read, lambda: (os.read(read, 1), got.set()))
    event_loop.call_later(0.02, os.write, write, b"x")
    await asyncio.wait_for(got.wait(), 5)
    event_loop.add_signal_handler(signal.SIGUSR1, got.clear)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(0.02)
    print("signal in loop", not got.is_set(), await event_loop.run_in_executor(None, square, 12))
    try:
        await asyncio.wait_for(asyncio.sleep(5), 0.02)
    except asyncio.TimeoutError:
        print("timeout")


def memory_and_files():
    with open("data", "w+b") as file:
        file.truncate(1 << 20)
        with mmap.mmap(file.fileno(), 0) as area:
            area[0:5], area[-3:] = b"hello", b"end"
            area.flush()
            print(area.find(b"end"), area.size())
            area.resize(2 << 20)
            pid = os.fork()
            if pid == 0:
                area[100:104] = b"kid!"
                os._exit(0)
            os.waitpid(pid, 0)
            print(area[100:104], os.fstat(file.fileno()).st_size)
        file.seek(0)
        print(file.read(5), os.pread(file.fileno(), 4, 100))
    private = mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if os.fork() == 0:
        private[0] = 7
        os._exit(0)
    os.wait()
    print("private", private[0])
    os.sendfile(os.open("copy", os.O_CREAT | os.O_WRONLY), os.open("data", os.O_RDONLY), 0, 1 << 20)
    print(os.path.getsize("copy"), shutil.disk_usage("/").total > 0)
    with open("locked", "w") as one, open("locked") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        try:
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("busy")
    with tempfile.TemporaryDirectory() as directory:
        os.makedirs(directory + "/a/b")
        os.symlink("b", directory + "/a/link")
        print(sorted(name for _, names, files in os.walk(directory) for name in names + files))
        with os.scandir(directory + "/a") as entries:
            print(sorted((e.name, e.is_dir(), e.is_symlink()) for e in entries))
    print(stat.filemode(os.stat("/tmp").st_mode)[0], os.access("/etc/passwd", os.R_OK), resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0)


def segfault():
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(8)
    print("segfault", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    pid = os.fork()
    if pid == 0:
        os.abort()
    print("abort", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def signals():
    seen = []
    for number in [signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN]:
        signal.signal(number, lambda n, _: seen.append(signal.Signals(n).name))
    for number in [signal.SIGUSR1, signal.SIGRTMIN, signal.SIGUSR2]:
        signal.raise_signal(number)
    signal.signal(signal.SIGALRM, lambda *_: seen.append("alarm"))
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    signal.pause()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGTERM)
    print(seen, signal.sigpending(), signal.sigtimedwait([signal.SIGTERM], 1).si_signo)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(5)
    _, status = os.waitpid(pid, os.WUNTRACED)
    print(os.WIFSTOPPED(status), os.WSTOPSIG(status) == signal.SIGSTOP)
    os.kill(pid, signal.SIGCONT)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def terminals():
    pid, master = pty.fork()
    if pid == 0:
        os.execvp("sh", ["sh", "-c", "tty > /dev/null && echo terminal; stty size; read x; echo got $x; exit 8"])
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    os.write(master, b"word\n")
    text = b""
    try:
        while chunk := os.read(master, 1000):
            text += chunk
    except OSError:
        pass
    print(b"terminal" in text, b"got word" in text, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def databases():
    def connect():
        connection = sqlite3.connect("base.db", timeout=20, isolation_level=None)
        connection.execute("pragma journal_mode=wal")
        return connection

    connection = connect()
    connection.execute("create table t (id integer primary key, who text)")

    def insert(who):
        own = connect()
        for _ in range(20):
            own.execute("begin immediate")
            own.execute("insert into t (who) values (?)", (who,))
            own.execute("commit")
        own.close()

    children = []
    for n in range(3):
        pid = os.fork()
        if pid == 0:
            insert(f"child {n}")
            os._exit(0)
        children.append(pid)
    reader = connect()
    reader.execute("begin")
    before = reader.execute("select count(*) from t").fetchone()
    for pid in children:
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), end=" ")
    print(reader.execute("select count(*) from t").fetchone() == before)
    reader.execute("commit")
    print(connection.execute("select who, count(*) from t group by who order by who").fetchall())
    print(sorted(os.listdir("."))[:1], connection.execute("pragma integrity_check").fetchone(), os.path.exists("base.db-wal"))
    connection.execute("pragma wal_checkpoint(truncate)")
    print(os.path.getsize("base.db-wal"))


def events():
    left, right = socket.socketpair()
    selector = selectors.DefaultSelector()
    selector.register(left, selectors.EVENT_READ)
    print(type(selector).__name__, selector.select(0))
    right.send(b"x")
    print(len(selector.select(1)), left.recv(1))
    print(select.select([left], [left], [], 0)[1] == [left])
    poll = select.poll()
    poll.register(left, select.POLLIN | select.POLLOUT)
    right.close()
    print(poll.poll(100)[0][1] & select.POLLHUP != 0)
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    socket.send_fds(one, [b"fd"], [os.open("/etc/passwd", os.O_RDONLY)])
    message, fds, _, _ = socket.recv_fds(two, 10, 1)
    print(message, os.read(fds[0], 4))


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    signal.alarm(110)
    for part in [threads, processes, lambda: asyncio.run(loop()), segfault, signals, terminals, databases, events, memory_and_files]:
        part()
    sys.exit(21)
