"""torchvision without torch's compiler: the detector doesn't pay for it, and whoever wants it gets it.

Each is asked of a fresh interpreter: in this one the compiler may have been imported long ago.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def answers(code: str, *arguments: object) -> Any:
    """What a program prints last, which is JSON."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_detector_comes_without_the_compiler_which_is_there_when_it_is_asked() -> None:
    told = answers("""
import json, sys
import pipeline.detect
import torch
from torchvision.ops import batched_nms

loaded = [name for name in ("sympy", "torch._dynamo", "torch._dynamo.utils") if name in sys.modules]
boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
kept = batched_nms(boxes, torch.tensor([0.8, 0.9, 0.7, 0.6]), torch.tensor([0, 0, 1, 0]), 0.5)
from torchvision.ops.roi_align import is_compile_supported
answer = is_compile_supported("cpu")
import torch._dynamo
from torch._dynamo import utils
real = [torch._dynamo.__file__, utils.__file__, torch._dynamo.optimize.__module__]
asked = is_compile_supported("cpu") == utils.is_compile_supported("cpu")
print(json.dumps({"loaded": loaded, "kept": kept.tolist(), "answer": answer, "real": real, "asked": asked}))
""")
    assert told["loaded"] == []
    assert told["kept"] == [1, 2, 3]
    assert isinstance(told["answer"], bool)
    assert told["asked"]
    assert all("_dynamo" in file for file in told["real"])


NEEDY = {
    "more": "from torch._dynamo.utils import counters",
    "another_part": "import torch._dynamo.config\nfrom torch._dynamo import config as counters",
}


def test_who_wants_more_of_the_compiler_gets_the_real_one(tmp_path: Path) -> None:
    for name, code in NEEDY.items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    code = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pipeline.lean_import import import_lean
modules = [import_lean(name) for name in sys.argv[2:]]
import torch._dynamo.utils
same = modules[0].counters is torch._dynamo.utils.counters
print(json.dumps([same, modules[1].counters.__name__, torch._dynamo.__file__]))
"""
    same, config, file = answers(code, tmp_path, *NEEDY)
    assert same
    assert config == "torch._dynamo.config"
    assert "_dynamo" in file


def test_what_was_imported_before_is_not_replaced(tmp_path: Path) -> None:
    asks = "import sys\nfrom torch._dynamo.utils import is_compile_supported\nseen = sys.modules['torch._dynamo']"
    (tmp_path / "asks.py").write_text(asks, encoding="utf-8")
    code = """
import json, sys
import torch._dynamo
sys.path.insert(0, sys.argv[1])
before = {name: module for name, module in sys.modules.items() if name.startswith("torch._dynamo")}
from pipeline.lean_import import import_lean
asks = import_lean("asks")
kept = all(sys.modules[name] is module for name, module in before.items())
print(json.dumps([kept, asks.seen is torch._dynamo, asks.is_compile_supported.__module__]))
"""
    assert answers(code, tmp_path) == [True, True, "torch._dynamo.utils"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import a_module_that_is_nowhere", "ModuleNotFoundError: No module named 'a_module_that_is_nowhere'"),
        ("raise ValueError('injected')", "ValueError: injected"),
    ],
)
def test_a_module_that_cant_be_imported_says_why_and_leaves_nothing_behind(
    tmp_path: Path, code: str, error: str
) -> None:
    (tmp_path / "broken.py").write_text(code, encoding="utf-8")
    program = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pipeline.lean_import import import_lean
try:
    import_lean("broken")
except Exception as error:
    told = f"{type(error).__name__}: {error}"
print(json.dumps([told, [name for name in sys.modules if name.startswith("torch")]]))
"""
    assert answers(program, tmp_path) == [error, []]
