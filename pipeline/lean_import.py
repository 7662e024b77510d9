"""Importing torchvision without torch's compiler, which nothing here uses and every worker would pay for."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import NoReturn

_COMPILER = "torch._dynamo"
_ASKED = f"{_COMPILER}.utils"


def import_lean(name: str) -> ModuleType:
    """A module that imports torchvision.

    torchvision imports all of torch's compiler for one function, which says whether a device could compile a slow path
    of an operator that isn't used here (``roi_align``): 150 MB and a second, in each worker. That function is put in
    its place meanwhile, and asks the compiler when it is called. Should another version want more, it gets it.
    """
    if _COMPILER in sys.modules:
        return importlib.import_module(name)
    package, utils = ModuleType(_COMPILER), ModuleType(_ASKED)
    package.__path__ = []
    utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    for module in (package, utils):
        module.__getattr__ = _asks_for_more  # type: ignore[method-assign]
    sys.modules |= {_COMPILER: package, _ASKED: utils}
    try:
        return importlib.import_module(name)
    except ImportError:
        _remove(package, utils)
        return importlib.import_module(name)
    finally:
        _remove(package, utils)


def _is_compile_supported(device_type: str) -> bool:
    answer: bool = importlib.import_module(_ASKED).is_compile_supported(device_type)
    return answer


def _asks_for_more(name: str) -> NoReturn:
    if name.startswith("__"):  # Asked of every module by those that look through all of them.
        raise AttributeError(name)
    raise ImportError(f"{_COMPILER} without {name} won't do")


def _remove(*modules: ModuleType) -> None:
    for module in modules:
        if sys.modules.get(module.__name__) is module:
            del sys.modules[module.__name__]
