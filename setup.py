"""The parts of the build that pyproject.toml cannot say: the C core, and what is made of it.

The core is compiled once, into `percpu/lib/libpercpu.a`, which C programs link. The extension
module contains all of that library. The public headers are installed beside it.

Environment:
    PERCPU_WERROR=1               every warning of -Wall -Wextra -Wpedantic is an error
    PERCPU_SANITIZE=LIST          build with -fsanitize=LIST ("address,undefined" or "thread"); who
                                  links the library must give the compiler the same option
"""

import os
import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.modified import newer_group

ROOT = Path(__file__).parent
HEADERS = Path("csrc/include/percpu")
CORE = ("topology", "rseq", "pool", "counter", "compat")
LIBRARY = Path("lib", "libpercpu.a")  # in the package


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


class BuildWithLibrary(build_ext):
    """Builds the static library, then the extension with all of it inside.

    An editable install finds both in the source tree.
    """

    def _library(self) -> Path:
        return Path(self.build_lib, "percpu", LIBRARY)

    def _build_library(self, extension: Extension) -> None:
        library, sources = self._library(), files(*(f"csrc/{layer}/*.c" for layer in CORE))
        depends = [*sources, *files("csrc/**/*.h")]
        if not (self.force or newer_group(depends, str(library), "newer")):
            return
        objects = self.compiler.compile(
            sources,
            output_dir=self.build_temp,
            macros=extension.define_macros,
            include_dirs=extension.include_dirs,
            # Whatever Python was built with: no code that only one compiler's linker can read.
            extra_postargs=[*compile_args, "-fPIC", "-fno-lto"],
        )
        library.unlink(missing_ok=True)  # `ar` would keep objects whose sources are gone
        self.compiler.create_static_lib(objects, "percpu", output_dir=str(library.parent))

    def build_extension(self, ext: Extension) -> None:
        """Build the library, if it is older than its sources, and link the extension with it."""
        self._build_library(ext)
        library = str(self._library())
        ext.depends.append(library)
        ext.extra_link_args += ["-Wl,--whole-archive", library, "-Wl,--no-whole-archive"]
        super().build_extension(ext)

    def copy_extensions_to_source(self) -> None:
        """Put what was built beside the modules that are used where they are."""
        super().copy_extensions_to_source()
        package = Path(self.get_finalized_command("build_py").get_package_dir("percpu"))
        (package / LIBRARY).parent.mkdir(exist_ok=True)
        shutil.copyfile(self._library(), package / LIBRARY)

    def get_outputs(self) -> list[str]:
        """Name what was built, the library too."""
        outputs: list[str] = super().get_outputs()
        return [*outputs, str(self._library())]


compile_args = ["-std=gnu11", "-O2", "-fvisibility=hidden", "-pthread"]
link_args = ["-pthread"]
if os.environ.get("PERCPU_WERROR") == "1":
    compile_args += ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
if sanitizers := os.environ.get("PERCPU_SANITIZE"):
    compile_args += [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-g"]
    link_args += [f"-fsanitize={sanitizers}"]

setup(
    cmdclass={"build_ext": BuildWithLibrary, "build_py": BuildWithHeaders},
    ext_modules=[
        Extension(
            "percpu._core",
            sources=files("csrc/python/*.c", "csrc/race/*.c"),
            depends=files("csrc/**/*.h"),
            include_dirs=["csrc/include", "csrc"],
            define_macros=[("PERCPU_BUILDING_CORE", None)],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
    ],
)
