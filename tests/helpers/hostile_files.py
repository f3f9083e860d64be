"""Files of weights that are hostile, damaged or something else, put together byte by byte."""

import builtins
import codecs
import functools
import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import torch

# Pickles are put together by hand from these.


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def weights(value: bytes) -> bytes:
    """A pickle of {"w": value}."""
    return b"\x80\x02}" + text("w") + value + b"s."


def array(shape: bytes, data: bytes, code: str = "f4", state: bytes = b"") -> bytes:
    dtype = call("numpy", "dtype", text(code), b"K\x00", b"K\x01")
    empty = call(
        "numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), SHAPE_0, b"U\x01b"
    )
    return empty + (state or b"(K\x01" + shape + dtype + b"\x89" + data + b"t") + b"b"


def storage(kind: str = "FloatStorage", key: str = "0", numel: bytes = b"K\x04") -> bytes:
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + numel + b"tQ"


def tensor(size: bytes, stride: bytes, offset: bytes = b"K\x00", numbers: bytes = b"") -> bytes:
    arguments = (numbers or storage(), offset, size, stride, b"\x89", b"}")
    return call("torch._utils", "_rebuild_tensor_v2", *arguments)


SHAPE_0, SHAPE_1, SHAPE_4 = b"K\x00\x85", b"K\x01\x85", b"K\x04\x85"
HUGE = b"\x8a\x08" + struct.pack("<q", 2**60)
BYTES_4 = call("_codecs", "encode", text("\0\0\x80?"), text("latin1"))
SOUND = weights(array(SHAPE_1, BYTES_4))
CANARY = "canary"  # made in the working folder by whatever is run
TOUCH = f"open({CANARY!r}, 'w')"


class Reduced:
    """Pickles as a call, or whatever `__reduce__` may return."""

    def __init__(self, *value):
        self.value = value

    def __reduce__(self):
        return self.value


def dumped(*value, protocol: int = 2) -> bytes:
    return pickle.dumps({"w": Reduced(*value)}, protocol=protocol)


# Functions that run code, read or write files, or reach others that do.
FUNCTIONS = """posix.system nt.system os.popen builtins.__import__ __builtin__.eval
    __builtin__.apply builtins.map operator.attrgetter operator.methodcaller runpy.run_path
    importlib.import_module pdb.run timeit.timeit code.interact webbrowser.open shelve.open
    sqlite3.connect logging.FileHandler numpy.load numpy.save numpy.memmap numpy.fromfile
    numpy.ctypeslib.load_library numpy.testing._private.utils.runstring numpy.f2py.compile
    torch.load torch.save torch.hub.load torch.storage._load_from_bytes torch.FloatTensor""".split()
RUNNING = {  # pickles that would run code in `pickle.load`
    **{
        function: weights(call(*function.rsplit(".", 1), text(f"touch {CANARY}")))
        for function in FUNCTIONS
    },
    "os.system": dumped(os.system, (f"touch {CANARY}",)),
    "os.system, protocol 0": dumped(os.system, (f"touch {CANARY}",), protocol=0),
    "os.system, protocol 5": dumped(os.system, (f"touch {CANARY}",), protocol=5),
    "subprocess": dumped(subprocess.check_output, (["touch", CANARY],)),
    "subprocess.Popen": dumped(subprocess.Popen, (["touch", CANARY],)),
    "eval": dumped(builtins.eval, (TOUCH,)),
    "exec": dumped(builtins.exec, (TOUCH,)),
    "open": dumped(builtins.open, (CANARY, "w")),
    "compile": dumped(builtins.compile, (TOUCH, "a", "exec")),
    "getattr": weights(call("builtins", "getattr", name("os", "path"), text("os"))),
    "a dotted name": b"\x80\x04" + text("os") + text("path.os.system") + b"\x93.",
    "a dotted name of what is allowed": b"\x80\x04"
    + text("collections")
    + text("OrderedDict.__init__.__globals__")
    + b"\x93.",
    "functools.partial": dumped(functools.partial, (os.system, f"touch {CANARY}")),
    "sys.exit": dumped(sys.exit, (3,)),
    "a pickle in a pickle": dumped(pickle.loads, (pickle.dumps(Reduced(os.system, ("true",))),)),
    "codecs.decode": dumped(codecs.decode, (b"a", "zip")),
    "encoding by a codec": weights(call("_codecs", "encode", text("a"), text("unicode_escape"))),
    "a whole model": pickle.dumps(torch.nn.Linear(1, 1)),
    "a function": pickle.dumps({"w": os.system}),
    "INST": b"\x80\x02(" + text(f"touch {CANARY}") + b"ios\nsystem\n.",
    "OBJ": b"\x80\x02(" + name("os", "system") + text(f"touch {CANARY}") + b"o.",
    "NEWOBJ": b"\x80\x02" + name("subprocess", "Popen") + text("true") + b"\x85\x81.",
    "NEWOBJ_EX": b"\x80\x04" + name("subprocess", "Popen") + text("true") + b"\x85}\x92.",
    "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + text("true") + b"\x85R.",
    "a hidden name": b"\x80\x04" + text("os\nis fine") + text("x" * 200) + b"\x93.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "a persistent id": b"\x80\x02" + text("a") + b"Q.",
    "a persistent id as text": b"Pa\n.",
    "a storage in a plain pickle": weights(tensor(SHAPE_4, SHAPE_1)),
    "a buffer out of band": b"\x80\x05\x97.",
    "BUILD of a class": b"\x80\x02" + name("numpy", "ndarray") + b"}" + text("a") + b"K\x01sb.",
    "BUILD of a function": b"\x80\x02" + name("_codecs", "encode") + b"}b.",
    "BUILD of a list": b"\x80\x02]}" + text("__class__") + name("numpy", "ndarray") + b"sb.",
    "ndarray called": weights(call("numpy", "ndarray", b"(" + HUGE + b"t")),
    "ndarray made": b"\x80\x02" + name("numpy", "ndarray") + b"(" + HUGE + b"t\x85\x81.",
    "a number called": weights(b"K\x01)R"),
    "a Namespace called": weights(call("argparse", "Namespace") + b")R"),
    "hidden beside the weights": SOUND[:-1] + text("x") + call("os", "abort") + b"s.",
}

DAMAGED = {  # pickles that only waste, mislead or lack something
    "a huge text": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"a.",
    "8 GB of text": b"\x80\x04\x8d" + struct.pack("<Q", 2**33) + b"a.",
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"a.",
    "8 GB of bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**33) + b"a.",
    "8 GB of a byte array": b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"a.",
    "a huge frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"a.",
    "an 8 GB frame": b"\x80\x04\x95" + struct.pack("<Q", 2**33) + b"a.",
    "a huge number": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"a.",
    "a negative length": b"\x80\x02T" + struct.pack("<i", -1) + b"a.",
    "a number of many digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "a memo far away": b"\x80\x02Kar" + struct.pack("<I", 2**31 - 1) + b".",
    "a memo that is not there": b"\x80\x02h\x05.",
    "lists in lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "tuples in tuples": b"\x80\x02)" + b"\x85" * 100_000 + b".",
    "a pyramid of tuples": b"\x80\x02)" + b"2\x86" * 100 + b".",
    "a pyramid of tuples as a name": b"\x80\x02})" + b"2\x86" * 100 + b"K\x01s.",
    "a pyramid of tuples as a scalar": weights(b")" + b"2\x86" * 100),
    "a list in itself": b"\x80\x02]2a.",
    "millions of dicts": b"\x80\x02(" + b"}" * 5_000_000 + b"t.",
    "a huge number as a name, many times": b"\x80\x02}\x8b"
    + struct.pack("<i", 100_000)
    + b"\x01" * 100_000
    + b"q\x00"
    + b"Nsh\x00" * 1000
    + b"Ns.",
    "the same text encoded again and again": b"\x80\x02"
    + text("a" * 100_000)
    + b"q\x000("
    + call("_codecs", "encode", b"h\x00", text("latin1")) * 10_000
    + b"t.",
    "a long state again and again": b"\x80\x02("
    + b"N" * 400_000
    + b"tq\x00"
    + call("numpy", "dtype", text("f4"))
    + b"h\x00b" * 100_000
    + b".",
    "long arguments again and again": b"\x80\x02("
    + b"N" * 400_000
    + b"tq\x00"
    + name("argparse", "Namespace")
    + b"q\x01"
    + b"h\x01h\x00R0" * 100_000
    + b".",
    "arrays in arrays": b"\x80\x02Nq\x000"
    + (
        call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), SHAPE_0, b"N")
        + b"(K\x01)h\x00\x89U\x00tbq\x000"
    )
    * 40_000
    + b"h\x00.",
    "a huge shape": weights(array(HUGE + b"\x85", BYTES_4)),
    "a shape beyond 64 bits": weights(array(HUGE + HUGE + b"\x86", BYTES_4)),
    "a negative shape": weights(array(b"J\xff\xff\xff\xff\x85", BYTES_4)),
    "a shape of text": weights(array(text("a") + b"\x85", BYTES_4)),
    "a shape of many axes": weights(array(b"(" + b"K\x01" * 100 + b"t", BYTES_4)),
    "too few bytes": weights(array(SHAPE_4, BYTES_4)),
    "too many bytes": weights(array(SHAPE_0, BYTES_4)),
    "_reconstruct of a shape": weights(
        call(
            "numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), HUGE + b"\x85", b"N"
        )
    ),
    "_reconstruct of another class": weights(
        call("numpy.core.multiarray", "_reconstruct", name("argparse", "Namespace"), SHAPE_0, b"N")
    ),
    "an array without numbers": weights(array(b"", b"", state=b"}")),
    "objects": pickle.dumps({"w": np.array([None, "a"])}),
    "objects, as scalar": weights(
        call("numpy.core.multiarray", "scalar", call("numpy", "dtype", text("O8")), text("a"))
    ),
    "strings": pickle.dumps({"w": np.array(["a", "b"])}),
    "byte strings": pickle.dumps({"w": np.array([b"a", b"b"])}),
    "records": pickle.dumps({"w": np.zeros(3, [("a", "f4"), ("b", "i8")])}),
    "dates": pickle.dumps({"w": np.zeros(3, "M8[s]")}),
    "complex numbers": pickle.dumps({"w": np.zeros(3, np.complex64)}),
    "long doubles": pickle.dumps({"w": np.zeros(3, np.longdouble)}),
    "an unknown byte order": weights(
        array(
            b"",
            b"",
            state=b"(K\x01"
            + SHAPE_1
            + call("numpy", "dtype", text("f4"))
            + b"(K\x03"
            + text("?")
            + b"NNNtb\x89"
            + BYTES_4
            + b"t",
        )
    ),
    "a set": pickle.dumps({1, 2}),
    "items of a number": b"\x80\x02K\x01K\x01a.",
    "names of a list": b"\x80\x02]K\x01K\x01s.",
    "a name without a value": b"\x80\x02}(K\x01K\x01K\x01u.",
    "an empty stack": b"\x80\x020000.",
    "no mark": b"\x80\x02t.",
    "no stop": b"\x80\x02}",
    "an unknown opcode": b"\x80\x02\xff.",
    "protocol 200": b"\x80\xc8}.",
    "a list": pickle.dumps([1, 2]),
    "None": pickle.dumps(None),
    "a text": pickle.dumps("weights"),
    "numbers": pickle.dumps({"w": 1.0}),
    "lists of numbers": pickle.dumps({"w": [1.0, 2.0]}),
    "number for a name": pickle.dumps({3: np.zeros(2, np.float32)}),
    "NaN for a name": pickle.dumps({float("nan"): np.zeros(2, np.float32)}),
    "None for a name": pickle.dumps({None: np.zeros(2, np.float32)}),
    "bytes for a name": pickle.dumps({b"w": np.zeros(2, np.float32)}),
    "tuple for a name": pickle.dumps({("a", 1): np.zeros(2, np.float32)}),
    "a name twice": pickle.dumps({"w": np.zeros(2), "module.w": np.ones(2)}),
    "a model that holds none": pickle.dumps({"model": {"w": None}}),
    "blobs that hold none": pickle.dumps({"blobs": {"w": "a"}}),
    "nothing": b"",
    "one byte": b"\x80",
    "zeros": bytes(1000),
    "noise": np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes(),
    "a web page": b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "an error in JSON": b'{"error": "Not Found"}',
    "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n",
    "gzip": gzip.compress(SOUND),
    "a tar archive": b"sys_info".ljust(257, b"\0") + b"ustar\x0000" + bytes(1000),
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
}
DAMAGED |= {f"cut after {n} of {len(SOUND)}": SOUND[:n] for n in range(1, len(SOUND), 7)}


def zipped(content: bytes, entries: dict[str, bytes] | None = None, **options) -> bytes:
    """An archive as of `torch.save`, with a pickle of our own."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        archive.writestr("a/data.pkl", content)
        for path, data in {
            "a/byteorder": b"little",
            "a/version": b"3\n",
            "a/data/0": bytes(16),
            **(entries or {}),
        }.items():
            archive.writestr(path, data)
    return file.getvalue()


def legacy(
    content: bytes, keys: object = ("0",), numbers: bytes = b"", little: object = True
) -> bytes:
    """A file as of `torch.save` before 1.6, with a pickle of our own."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": little})
    pickled = b"".join(pickle.dumps(value, protocol=2) for value in head)
    numbers = numbers or struct.pack("<q", 4) + bytes(16)
    content = content.replace(b"K\x04tQ", b"K\x04NtQ")  # its storages may be parts of others
    return pickled + content + pickle.dumps(list(keys), protocol=2) + numbers


def saved(value: object, **options) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


SOUND_VIEW = weights(tensor(SHAPE_4, SHAPE_1))
SOUND_ZIP, SOUND_LEGACY = zipped(SOUND_VIEW), legacy(SOUND_VIEW)
VIEWS = {  # tensors that a file of torch.save cannot hold
    "reaching too far": tensor(b"K\x05\x85", SHAPE_1),
    "starting too far": tensor(SHAPE_1, SHAPE_1, offset=b"K\x04"),
    "starting before": tensor(SHAPE_1, SHAPE_1, offset=b"J\xff\xff\xff\xff"),
    "striding too far": tensor(b"K\x02\x85", b"K\x04\x85"),
    "striding back": tensor(b"K\x02\x85", b"J\xff\xff\xff\xff\x85"),
    "of petabytes": tensor(b"\x8a\x06" + struct.pack("<q", 2**46)[:6] + b"\x85", SHAPE_0),
    "of too many sizes": tensor(HUGE + b"\x85", SHAPE_0),
    "of sizes beyond 64 bits": tensor(HUGE + HUGE + b"\x86", b"K\x00K\x00\x86"),
    "with a stride lacking": tensor(b"K\x02K\x02\x86", SHAPE_1),
    "without a storage": tensor(SHAPE_1, SHAPE_1, numbers=b"N"),
    "of an unknown storage": tensor(SHAPE_1, SHAPE_1, numbers=storage("ComplexFloatStorage")),
    "of a class for a storage": tensor(SHAPE_1, SHAPE_1, numbers=name("torch", "FloatStorage")),
    "of a huge storage": tensor(SHAPE_1, SHAPE_1, numbers=storage(numel=HUGE)),
    "of a long persistent id": tensor(SHAPE_1, SHAPE_1, numbers=storage(numel=b"K\x04" * 1000)),
    "of a negative storage": tensor(SHAPE_1, SHAPE_1, numbers=storage(numel=b"J\xff\xff\xff\xff")),
    "of a storage that is not there": tensor(SHAPE_1, SHAPE_1, numbers=storage(key="../../a")),
    "of another type": tensor(SHAPE_4, SHAPE_1, numbers=storage("DoubleStorage")),
    "sparse": call("torch._utils", "_rebuild_sparse_tensor", b"K\x00", b")"),
    "on no device": call("torch._utils", "_rebuild_meta_tensor_no_storage", b"K\x00"),
}
BYTE_ARRAY = weights(call("builtins", "bytearray", HUGE))
ARCHIVES = {
    "a zip with code": zipped(RUNNING["os.system"]),
    "a zip with getattr": zipped(RUNNING["getattr"]),
    "a zip with a huge byte array": zipped(BYTE_ARRAY),
    "a zip with a huge tensor": zipped(weights(call("torch", "FloatTensor", HUGE))),
    "a zip without a pickle": zipped(b"", {"b/data.pkl": b""}),
    "a zip with an empty pickle": zipped(b""),
    "a zip of another program": zipped(b"").replace(b"data.pkl", b"data.txt"),
    "a zip bomb": zipped(weights(text("a" * 10**8)), compression=zipfile.ZIP_DEFLATED),
    "a zip bomb in a storage": zipped(
        weights(tensor(SHAPE_4, SHAPE_1, numbers=storage(numel=b"J\x00\x00\x00\x04"))),
        {"a/data/0": bytes(2**28)},
        compression=zipfile.ZIP_DEFLATED,
    ),
    "TorchScript": zipped(SOUND_VIEW, {"a/constants.pkl": b"", "a/code/a.py": TOUCH.encode()}),
    "a zip without an end": SOUND_ZIP[:-22],
    "a pickle of torch.save in bytes": pickle.dumps({"w": torch.zeros(2)}),
    "a legacy file with code": legacy(RUNNING["os.system"]),
    "a legacy file with a huge byte array": legacy(BYTE_ARRAY),
    "code in the head of a legacy file": legacy(SOUND_VIEW, little=Reduced(os.system, ("true",))),
    "code after a legacy file": legacy(SOUND_VIEW, keys=[Reduced(os.system, ("true",))]),
    "a legacy file with a key twice": legacy(SOUND_VIEW, keys=["0", "0"]),
    "a legacy file with a number for a key": legacy(SOUND_VIEW, keys=[0]),
    "a legacy file with a tuple for a key": legacy(SOUND_VIEW, keys=[("0",)]),
    "a legacy file with another key": legacy(SOUND_VIEW, keys=["1"]),
    "a legacy file of a huge size": legacy(SOUND_VIEW, numbers=struct.pack("<q", 2**60)),
    "a legacy file of a negative size": legacy(SOUND_VIEW, numbers=struct.pack("<q", -4)),
    "a whole model in a zip": saved(torch.nn.Linear(1, 1)),
    "a whole model in a legacy file": saved(
        torch.nn.Linear(1, 1), _use_new_zipfile_serialization=False
    ),
    "a list of tensors": saved([torch.zeros(1)]),
    "a tensor": saved(torch.zeros(1)),
    "quantised": zipped(weights(call("torch._utils", "_rebuild_qtensor", storage()))),
    "sparse tensors": saved({"w": torch.eye(2).to_sparse()}),
}
ARCHIVES |= {f"a zip with a tensor {case}": zipped(weights(v)) for case, v in VIEWS.items()}
ARCHIVES |= {f"a legacy file with a tensor {case}": legacy(weights(v)) for case, v in VIEWS.items()}
for kind, whole in {"zip": SOUND_ZIP, "legacy file": SOUND_LEGACY}.items():
    ARCHIVES |= {f"a {kind} cut after {n}": whole[:n] for n in range(1, len(whole), 40)}
HOSTILE = RUNNING | DAMAGED | ARCHIVES
