#!/usr/bin/python3
"""Checks pods of several containers through the container runtime interface (CRI) of Kubernetes.

Usage: cri.py SOCKET WORK-DIRECTORY IMAGE. Prints a line per check and the counts, like the other suites.
"""
import base64, json, os, re, socket as sockets, struct, subprocess, sys, time, urllib.parse

socket, work, image = sys.argv[1:]
here = os.path.dirname(os.path.realpath(__file__))
subprocess.check_call([sys.executable, "-m", "grpc_tools.protoc", "-I", here, "--python_out", work,
                       "--grpc_python_out", work, os.path.join(here, "cri.proto")])
sys.path.insert(0, work)
import grpc
import cri_pb2 as cri
import cri_pb2_grpc

runtime = cri_pb2_grpc.RuntimeServiceStub(grpc.insecure_channel("unix://" + socket))
LIMIT = 40  # seconds for a request
wanted = re.compile(os.environ.get("FILTER", "."))
counts = {"passed": 0, "failed": 0}
logs = os.path.join(work, "pod-logs")
number = 0


def check(function):
    name = function.__name__
    if not wanted.search(name):
        return
    try:
        function()
        counts["passed"] += 1
        print("ok", name, flush=True)
    except grpc.RpcError as error:
        counts["failed"] += 1
        print("FAIL", name, error.code(), error.details()[:600].replace("\n", "|"), flush=True)
    except AssertionError as error:
        counts["failed"] += 1
        print("FAIL", name, str(error)[:600].replace("\n", "|"), flush=True)


def equal(got, wanted):
    assert got == wanted, f"wanted {wanted!r}, got {got!r}"


class Pod:
    """A pod; used with `with`, it is stopped and removed at the end."""

    def __init__(self, **options):
        global number
        number += 1
        self.config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=f"pod{number}", uid=f"uid{number}", namespace="default"),
            log_directory=os.path.join(logs, str(number)),
            linux=cri.LinuxPodSandboxConfig(
                cgroup_parent="/integration-pods",
                security_context=cri.LinuxSandboxSecurityContext(namespace_options=namespaces(**options))),
        )
        os.makedirs(self.config.log_directory)
        self.options = options
        self.names = 0

    def __enter__(self):
        request = cri.RunPodSandboxRequest(config=self.config)
        self.id = runtime.RunPodSandbox(request, timeout=LIMIT).pod_sandbox_id
        return self

    def __exit__(self, *_):
        request = cri.PodSandboxRequest(pod_sandbox_id=self.id)
        runtime.StopPodSandbox(request, timeout=LIMIT)
        runtime.RemovePodSandbox(request, timeout=LIMIT)

    def create(self, *command, security=None, resources=None, **fields):
        self.names += 1
        name = f"c{self.names}"
        security = dict(security or {}, namespace_options=namespaces(**self.options))
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name), image=cri.ImageSpec(image=image), command=command,
            log_path=name + ".log",
            linux=cri.LinuxContainerConfig(
                security_context=cri.LinuxContainerSecurityContext(**security),
                resources=cri.LinuxContainerResources(**(resources or {}))),
            **fields)
        request = cri.CreateContainerRequest(pod_sandbox_id=self.id, config=config, sandbox_config=self.config)
        container = Container(runtime.CreateContainer(request, timeout=LIMIT).container_id)
        container.log_file = os.path.join(self.config.log_directory, name + ".log")
        return container

    def run(self, *command, **fields):
        container = self.create(*command, **fields)
        container.start()
        return container


class Container:
    def __init__(self, id):
        self.id = id
        self.request = cri.ContainerRequest(container_id=id)

    def start(self):
        runtime.StartContainer(self.request, timeout=LIMIT)

    def status(self):
        return runtime.ContainerStatus(self.request, timeout=LIMIT).status

    def exec(self, *command):
        request = cri.ExecSyncRequest(container_id=self.id, cmd=command, timeout=20)
        return runtime.ExecSync(request, timeout=LIMIT)

    def stop(self, timeout):
        runtime.StopContainer(cri.StopContainerRequest(container_id=self.id, timeout=timeout), timeout=LIMIT)

    def remove(self):
        runtime.RemoveContainer(self.request, timeout=LIMIT)

    def wait(self):
        for _ in range(100):
            status = self.status()
            if status.state == cri.CONTAINER_EXITED:
                return status.exit_code
            time.sleep(0.1)
        raise AssertionError(f"the container has not ended: {status}")

    def log(self):
        with open(self.log_file) as file:
            return [line.split(" ", 3)[1:] for line in file.read().splitlines()]


class Stream:
    """A connection to the streaming server: what kubectl exec and attach use, over a web socket."""
    INPUT, OUTPUT, ERRORS, STATUS, SIZE = range(5)

    def __init__(self, url):
        at = urllib.parse.urlsplit(url)
        self.socket = sockets.create_connection((at.hostname, at.port), timeout=LIMIT)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(f"GET {at.path}?{at.query} HTTP/1.1\r\nHost: {at.netloc}\r\nUpgrade: websocket\r\n"
                            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                            "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n".encode())
        self.file = self.socket.makefile("rb")
        head = self.file.readline()
        assert b"101" in head, head
        while self.file.readline().strip():
            pass
        self.received = {channel: b"" for channel in range(5)}

    def send(self, channel, data):
        data = bytes([channel]) + data
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        self.socket.sendall(struct.pack("!BBH", 0x82, 0x80 | 126, len(data)) + mask + masked)

    def resize(self, columns, rows):
        self.send(self.SIZE, json.dumps({"Width": columns, "Height": rows}).encode())

    def receive(self):
        """Takes one message; False at the end."""
        head = self.file.read(2)
        if len(head) < 2 or head[0] & 15 == 8:
            return False
        length = head[1] & 127
        if length >= 126:
            length = int.from_bytes(self.file.read(2 if length == 126 else 8), "big")
        data = self.file.read(length)
        if data:
            self.received[data[0]] += data[1:]
        return True

    def wait_for(self, text):
        while text not in self.received[self.OUTPUT]:
            assert self.receive(), f"it ended without {text}: {self.received}"

    def end(self):
        """Reads on until the end, and returns the exit status."""
        while self.receive():
            pass
        status = json.loads(self.received[self.STATUS] or b"{}")
        causes = status.get("details", {}).get("causes", [])
        return next((int(cause["message"]) for cause in causes if cause["reason"] == "ExitCode"), 0)


def namespaces(pid=cri.CONTAINER):
    # The node's network: no network plug-in is needed.
    return cri.NamespaceOption(network=cri.NODE, pid=pid, ipc=cri.POD)


IDLE = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")


@check
def version():
    assert runtime.Version(cri.VersionRequest(), timeout=LIMIT).runtime_name


@check
def pod_starts_and_stops():
    with Pod() as pod:
        ids = [item.id for item in runtime.ListPodSandbox(cri.Empty(), timeout=LIMIT).items]
        assert pod.id in ids, ids
    ids = [item.id for item in runtime.ListPodSandbox(cri.Empty(), timeout=LIMIT).items]
    assert pod.id not in ids, ids


with Pod() as pod:
    @check
    def two_containers_run():
        first, second = pod.run(*IDLE), pod.run(*IDLE)
        for container in (first, second):
            equal(container.status().state, cri.CONTAINER_RUNNING)
            equal(container.exec("echo", "hi").stdout, b"hi\n")

    box = pod.run(*IDLE)

    @check
    def exit_status_is_reported():
        equal(pod.run("sh", "-c", "exit 7").wait(), 7)

    @check
    def signal_is_reported():
        equal(pod.run("sh", "-c", "sleep 100 & kill -9 $!; wait $!").wait(), 137)

    @check
    def others_live_on():
        pod.run("true").wait()
        equal(box.status().state, cri.CONTAINER_RUNNING)
        equal(box.exec("echo", "alive").stdout, b"alive\n")

    @check
    def log_has_both_streams():
        container = pod.run("sh", "-c", "echo one; sleep 0.2; echo two >&2")
        container.wait()
        time.sleep(0.2)
        equal(container.log(), [["stdout", "F", "one"], ["stderr", "F", "two"]])

    @check
    def exec_status_and_streams():
        answer = box.exec("sh", "-c", "echo out; echo err >&2; exit 3")
        equal((answer.stdout, answer.stderr, answer.exit_code), (b"out\n", b"err\n", 3))

    @check
    def exec_missing_program():
        try:
            answer = box.exec("/no/such/program")
        except grpc.RpcError as error:
            assert re.search("no such file|not found", error.details()), error.details()
        else:
            assert answer.exit_code in (126, 127), answer

    @check
    def exec_time_out():
        try:
            runtime.ExecSync(cri.ExecSyncRequest(container_id=box.id, cmd=["sleep", "30"], timeout=1), timeout=LIMIT)
        except grpc.RpcError as error:
            equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        else:
            raise AssertionError("the command was not stopped")

    @check
    def exec_large_output():
        equal(len(box.exec("head", "-c", "3000000", "/dev/zero").stdout), 3000000)

    def open_exec(container, *command, **options):
        request = cri.ExecRequest(container_id=container.id, cmd=command, stdout=True, **options)
        return Stream(runtime.Exec(request, timeout=LIMIT).url)

    @check
    def exec_stream_status_and_streams():
        stream = open_exec(box, "sh", "-c", "echo out; echo err >&2; exit 3", stderr=True)
        equal(stream.end(), 3)
        equal((stream.received[Stream.OUTPUT], stream.received[Stream.ERRORS]), (b"out\n", b"err\n"))

    @check
    def exec_stream_input():
        stream = open_exec(box, "sh", "-c", "read x; echo got $x", stdin=True)
        stream.send(Stream.INPUT, b"hello\n")
        equal(stream.end(), 0)
        equal(stream.received[Stream.OUTPUT], b"got hello\n")

    @check
    def exec_terminal_is_resized():
        stream = open_exec(box, "sh", stdin=True, tty=True)
        stream.resize(77, 33)
        # What is typed is shown, too.
        stream.send(Stream.INPUT, b"tty; while ! stty size | grep '33 77'; do sleep 0.1; done\n")
        stream.wait_for(b"\r\n33 77\r\n")
        assert b"\r\n/dev/pts/" in stream.received[Stream.OUTPUT], stream.received
        stream.resize(100, 50)
        stream.send(Stream.INPUT, b"while ! stty size | grep '50 100'; do sleep 0.1; done; exit 5\n")
        equal(stream.end(), 5)
        assert b"\r\n50 100\r\n" in stream.received[Stream.OUTPUT], stream.received

    @check
    def exec_terminal_interrupts():
        stream = open_exec(box, "sh", "-c", "trap 'exit 9' INT; echo ready; while :; do sleep 0.1; done", stdin=True, tty=True)
        stream.wait_for(b"ready")
        stream.send(Stream.INPUT, b"\x03")
        equal(stream.end(), 9)

    @check
    def attach_to_a_program():
        container = pod.run("sh", "-c", "while read x; do echo got $x; done", stdin=True)
        request = cri.AttachRequest(container_id=container.id, stdin=True, stdout=True, stderr=True)
        stream = Stream(runtime.Attach(request, timeout=LIMIT).url)
        stream.send(Stream.INPUT, b"hello\n")
        stream.wait_for(b"got hello\n")
        container.stop(0)

    @check
    def attach_to_a_terminal():
        container = pod.run("sh", stdin=True, tty=True)
        request = cri.AttachRequest(container_id=container.id, stdin=True, tty=True, stdout=True)
        stream = Stream(runtime.Attach(request, timeout=LIMIT).url)
        stream.resize(66, 22)
        stream.send(Stream.INPUT, b"while ! stty size | grep '22 66'; do sleep 0.1; done; exit 3\n")
        stream.wait_for(b"\r\n22 66\r\n")
        equal(container.wait(), 3)

    @check
    def missing_program_fails_to_start():
        container = pod.create("/no/such/program")
        try:
            container.start()
        except grpc.RpcError as error:
            assert re.search("no such file|not found", error.details()), error.details()
        else:
            raise AssertionError("a missing program was started")
        container.remove()

    @check
    def own_file_systems():
        first, second = pod.run(*IDLE), pod.run(*IDLE)
        equal(first.exec("touch", "/mine").exit_code, 0)
        equal(second.exec("test", "-e", "/mine").exit_code, 1)

    @check
    def own_process_ids():
        container = pod.run(*IDLE)
        equal(container.exec("cat", "/proc/1/comm").stdout, b"sh\n")

    @check
    def environment_and_directory():
        container = pod.run("sh", "-c", "echo $K; pwd", working_dir="/var/tmp",
                            envs=[cri.KeyValue(key="K", value="v")])
        container.wait()
        time.sleep(0.2)
        equal([line[2] for line in container.log()], ["v", "/var/tmp"])

    @check
    def user():
        container = pod.run(*IDLE, security={"run_as_user": cri.Int64Value(value=1000)})
        equal(container.exec("id", "-u").stdout, b"1000\n")

    @check
    def read_only_root():
        container = pod.run(*IDLE, security={"readonly_rootfs": True})
        assert container.exec("touch", "/x").exit_code != 0

    @check
    def host_directory():
        directory = os.path.join(work, "shared-directory")
        os.makedirs(directory)
        mounts = [cri.Mount(container_path="/shared", host_path=directory)]
        first, second = pod.run(*IDLE, mounts=mounts), pod.run(*IDLE, mounts=mounts)
        equal(first.exec("sh", "-c", "echo data >/shared/file").exit_code, 0)
        equal(second.exec("cat", "/shared/file").stdout, b"data\n")
        equal(open(os.path.join(directory, "file")).read(), "data\n")

    @check
    def shared_memory_of_the_pod():
        first, second = pod.run(*IDLE), pod.run(*IDLE)
        equal(first.exec("sh", "-c", "echo data >/dev/shm/file").exit_code, 0)
        equal(second.exec("cat", "/dev/shm/file").stdout, b"data\n")

    @check
    def stop_asks_first():
        container = pod.run("sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.1; done")
        time.sleep(0.3)
        container.stop(10)
        equal(container.wait(), 4)
        container.remove()

    @check
    def stop_kills_then():
        container = pod.run("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
        time.sleep(0.3)
        container.stop(1)
        equal(container.wait(), 137)
        container.remove()

    @check
    def remove_while_running():
        container = pod.run(*IDLE)
        container.remove()
        assert container.id not in [c.id for c in runtime.ListContainers(cri.Empty(), timeout=LIMIT).containers]

    @check
    def created_can_be_removed():
        pod.create(*IDLE).remove()

    @check
    def statistics():
        box.exec("sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
        stats = runtime.ContainerStats(box.request, timeout=LIMIT).stats
        assert stats.cpu.usage_core_nano_seconds.value > 0, stats
        assert stats.memory.working_set_bytes.value > 0, stats

    @check
    def update_of_resources():
        request = cri.UpdateContainerResourcesRequest(
            container_id=box.id, linux=cri.LinuxContainerResources(cpu_shares=512, memory_limit_in_bytes=64 << 20))
        runtime.UpdateContainerResources(request, timeout=LIMIT)

    @check
    def memory_limit_kills_only_its_container():
        container = pod.run("sh", "-c", "head -c 200m /dev/zero | tail >/dev/null; exit $?",
                            resources={"memory_limit_in_bytes": 32 << 20})
        equal(container.wait(), 137)
        equal(box.status().state, cri.CONTAINER_RUNNING)

    @check
    def many_containers():
        containers = [pod.create("sh", "-c", f"exit {n}") for n in range(8)]
        for container in containers:
            container.start()
        equal([container.wait() for container in containers], list(range(8)))


@check
def shared_process_ids():
    with Pod(pid=cri.POD) as pod:
        first, second = pod.run("sleep", "1234"), pod.run(*IDLE)
        assert b"1234" in second.exec("ps").stdout, second.exec("ps").stdout
        equal(first.status().state, cri.CONTAINER_RUNNING)


@check
def two_pods_at_once():
    with Pod() as first, Pod() as second:
        a, b = first.run(*IDLE), second.run(*IDLE)
        equal((a.exec("echo", "a").stdout, b.exec("echo", "b").stdout), (b"a\n", b"b\n"))


@check
def nothing_is_left():
    equal(list(runtime.ListContainers(cri.Empty(), timeout=LIMIT).containers), [])
    equal(list(runtime.ListPodSandbox(cri.Empty(), timeout=LIMIT).items), [])


print(f"\n{counts['passed']} passed, {counts['failed']} failed")
sys.exit(counts["failed"] != 0)
