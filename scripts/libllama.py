"""llama.cpp as a library, from the npm package @node-llama-cpp/linux-x64: its quantizer, and its logits after every token.

Its structs differ from version to version; what is used here are their beginnings, which have been the same for long, with room
behind them for the rest. The package's version is fixed.
"""

import ctypes
import pathlib
import subprocess

import oracle_env

PACKAGE = "@node-llama-cpp/linux-x64@3.22.1"


class QuantizeParams(ctypes.Structure):
    """The beginning of llama_model_quantize_params, and room for the rest of any version."""

    _fields_ = [("nthread", ctypes.c_int32), ("ftype", ctypes.c_int32), ("output", ctypes.c_int32), ("embedding", ctypes.c_int32), ("rest", ctypes.c_uint8 * 240)]


class ModelParams(ctypes.Structure):
    """llama_model_params, of which nothing is changed."""

    _fields_ = [("rest", ctypes.c_uint64 * 32)]


class ContextParams(ctypes.Structure):
    """The beginning of llama_context_params."""

    _fields_ = [("n_ctx", ctypes.c_uint32), ("n_batch", ctypes.c_uint32), ("n_ubatch", ctypes.c_uint32), ("rest", ctypes.c_uint32 * 93)]


class Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


def library():
    """libllama, silent."""
    folder = oracle_env.ROOT / "target" / "oracle-llama"
    found = list(folder.glob("**/libllama*.so*"))
    if not found:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["npm", "install", "--silent", "--no-save", "--ignore-scripts", "--prefix", folder, PACKAGE], check=True)
        except (OSError, subprocess.CalledProcessError) as e:
            oracle_env.skip(f"needs {PACKAGE}, and could not install it ({e})")
        found = list(folder.glob("**/libllama*.so*"))
    path = next(p for p in found if "common" not in p.name)
    lib = ctypes.CDLL(str(path))
    p = ctypes.POINTER
    for name, result, *arguments in [
        ("llama_model_quantize_default_params", QuantizeParams),
        ("llama_model_quantize", ctypes.c_uint32, ctypes.c_char_p, ctypes.c_char_p, p(QuantizeParams)),
        ("llama_model_default_params", ModelParams),
        ("llama_model_load_from_file", ctypes.c_void_p, ctypes.c_char_p, ModelParams),
        ("llama_model_free", None, ctypes.c_void_p),
        ("llama_model_get_vocab", ctypes.c_void_p, ctypes.c_void_p),
        ("llama_vocab_n_tokens", ctypes.c_int32, ctypes.c_void_p),
        ("llama_tokenize", ctypes.c_int32, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, p(ctypes.c_int32), ctypes.c_int32, ctypes.c_bool, ctypes.c_bool),
        ("llama_context_default_params", ContextParams),
        ("llama_init_from_model", ctypes.c_void_p, ctypes.c_void_p, ContextParams),
        ("llama_set_n_threads", None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32),
        ("llama_free", None, ctypes.c_void_p),
        ("llama_get_memory", ctypes.c_void_p, ctypes.c_void_p),
        ("llama_memory_clear", None, ctypes.c_void_p, ctypes.c_bool),
        ("llama_batch_init", Batch, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32),
        ("llama_batch_free", None, Batch),
        ("llama_decode", ctypes.c_int32, ctypes.c_void_p, Batch),
        ("llama_get_logits", p(ctypes.c_float), ctypes.c_void_p),
    ]:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    lib.llama_log_set(silent, None)
    lib.keep = silent
    load_backends(path.parent)
    return lib


def load_backends(folder: pathlib.Path) -> None:
    """Loads the processors' kernels, which are libraries of their own."""
    ggml = ctypes.CDLL(str(next(p for p in folder.glob("libggml.*so*"))))
    ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_load_all_from_path.restype = None
    ggml.ggml_backend_load_all_from_path(str(folder).encode())


class Model:
    """A model in llama.cpp, its cache of 16 bits, reading windows of up to `ctx` tokens."""

    def __init__(self, lib, path: pathlib.Path, ctx: int, threads: int) -> None:
        self.lib, self.ctx = lib, ctx
        self.model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        if not self.model:
            raise ValueError(f"{path}: llama.cpp does not load it")
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.n_vocab = lib.llama_vocab_n_tokens(self.vocab)
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = ctx
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise ValueError(f"{path}: llama.cpp makes no context of {ctx} tokens")
        lib.llama_set_n_threads(self.context, threads, threads)

    def tokenize(self, text: str) -> list[int]:
        """Token ids."""
        data = text.encode()
        room = (ctypes.c_int32 * (len(data) + 1))()
        n = self.lib.llama_tokenize(self.vocab, data, len(data), room, len(room), False, False)
        return list(room[:n])

    def logits(self, tokens: list[int]) -> list[list[float]]:
        """The logits after each token, read from an empty cache."""
        lib = self.lib
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        batch.n_tokens = len(tokens)
        failed = lib.llama_decode(self.context, batch)
        lib.llama_batch_free(batch)
        if failed:
            raise ValueError(f"llama.cpp does not read {len(tokens)} tokens: {failed}")
        all_rows, v = lib.llama_get_logits(self.context), self.n_vocab
        return [all_rows[r * v : (r + 1) * v] for r in range(len(tokens))]

    def close(self) -> None:
        """Gives its memory back."""
        self.lib.llama_free(self.context)
        self.lib.llama_model_free(self.model)
