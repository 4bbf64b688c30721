"""The parts of the build that pyproject.toml cannot say: the extension module and the headers.

Environment:
    PERCPU_WERROR=1               every warning of -Wall -Wextra -Wpedantic is an error
    PERCPU_SANITIZE=LIST          build with -fsanitize=LIST ("address,undefined" or "thread")
"""

import os
import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
HEADERS = Path("csrc/include/percpu")


def files(*patterns: str) -> list[str]:
    """The files that match, relative to the project's root: distutils wants them so."""
    return sorted(str(p.relative_to(ROOT)) for pattern in patterns for p in ROOT.glob(pattern))


class BuildWithHeaders(build_py):
    """Puts the public headers into the package, where `percpu.get_include()` finds them.

    An editable install needs no copy: `get_include()` then finds the ones in the source tree.
    """

    def _copies(self) -> list[tuple[Path, Path]]:
        if self.editable_mode:
            return []
        target = Path(self.build_lib, "percpu", "include", "percpu")
        sources = sorted((ROOT / HEADERS).rglob("*.h"))
        return [(source, target / source.relative_to(ROOT / HEADERS)) for source in sources]

    def run(self) -> None:
        """Copy the modules, then the headers."""
        super().run()
        for source, target in self._copies():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Name what was copied, the headers too."""
        outputs: list[str] = super().get_outputs(include_bytecode)
        return outputs + [str(target) for _, target in self._copies()]


compile_args = ["-std=gnu11", "-O2", "-fvisibility=hidden", "-pthread"]
link_args = ["-pthread"]
if os.environ.get("PERCPU_WERROR") == "1":
    compile_args += ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
if sanitizers := os.environ.get("PERCPU_SANITIZE"):
    compile_args += [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-g"]
    link_args += [f"-fsanitize={sanitizers}"]

setup(
    cmdclass={"build_py": BuildWithHeaders},
    ext_modules=[
        Extension(
            "percpu._core",
            sources=files("csrc/*/*.c"),
            depends=files("csrc/**/*.h"),
            include_dirs=["csrc/include", "csrc"],
            define_macros=[("PERCPU_BUILDING_CORE", None)],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
    ],
)
