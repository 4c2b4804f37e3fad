"""Every error that stepahead raises on purpose.

StepaheadError
├── ConfigError            a setting is wrong: an argument of LLM(), a flag, an environment variable
├── ModelFormatError       a model file is damaged or not a GGUF file
├── UnsupportedModelError  a sound file that this version cannot run: architecture, tensor type, tokenizer
├── CapacityError          it does not fit: KV cache, context length, memory
├── DownloadError          a hub, a network, or what came from there; another try may help
├── RequestError           one request is wrong: token ids, sampling parameters, an empty prompt
└── BackendError           the compute backend cannot do what was asked of it: a missing instruction set, a device

A message names the value, the limit and the way out, in one line. The caller's mistakes are raised;
our own are asserted.
"""


class StepaheadError(Exception):
    """Base of the tree; catching it catches every error that stepahead raises on purpose."""


class ConfigError(StepaheadError, ValueError):
    """A setting is wrong."""


class ModelFormatError(StepaheadError):
    """A model file is damaged, truncated or not a GGUF file; the message names file, place and fault."""


class UnsupportedModelError(StepaheadError):
    """The file is sound, but this version cannot run it."""


class CapacityError(StepaheadError):
    """It does not fit; the message names what was asked, what there is, and the cheapest way out."""


class DownloadError(StepaheadError):
    """A hub or a network failed, or sent what is not what it promised; the message says what was kept."""


class RequestError(StepaheadError, ValueError):
    """One request is wrong; other requests go on."""


class BackendError(StepaheadError):
    """The compute backend cannot do what was asked of it."""
