"""Folders that other tools take: an Arduino library, a Zephyr module."""

from __future__ import annotations

from collections.abc import Mapping

from bitshift.backends.c99.files import Label


def arduino(files: Mapping[str, str], label: Label) -> dict[str, str]:
    """``files`` as a library for the Arduino IDE, arduino-cli and PlatformIO, with the self-test as its example."""
    name = label.name
    properties = (
        f"name={name}\nversion={_three(label.version)}\nauthor=bitshift\nmaintainer=bitshift\n"
        f"sentence=A neural network of shifts and additions.\n"
        f"paragraph={label.origin}, hash {label.hash}; integers only, no multiplication.\n"
        f"category=Data Processing\nurl=https://example.invalid/{name}\narchitectures=*\nincludes={name}.h\n"
    )
    sketch = f"""\
// bitshift emit-c: runs the self-test of {name}.
#include <{name}.h>

void setup() {{
  Serial.begin(9600);
  while (!Serial) {{ }}
  Serial.println({name}_selftest() == 0 ? "{name}: self-test passed" : "{name}: self-test failed");
}}

void loop() {{ }}
"""
    return {
        **_in_src(files),
        "library.properties": properties,
        "examples/selftest/selftest.ino": sketch,
    }


def zephyr(files: Mapping[str, str], label: Label) -> dict[str, str]:
    """``files`` as a Zephyr module: list the folder in ``EXTRA_ZEPHYR_MODULES`` and set ``CONFIG_BITSHIFT_NAME=y``."""
    name, up = label.name, label.upper
    cmake = f"""\
if(CONFIG_BITSHIFT_{up})
  zephyr_library_named(bitshift_{name})
  zephyr_library_sources(../src/{name}.c)
  zephyr_library_sources_ifdef(CONFIG_BITSHIFT_{up}_SELFTEST ../src/{name}_selftest.c)
  zephyr_include_directories(../src)
endif()
"""
    kconfig = f"""\
config BITSHIFT_{up}
	bool "{name}: a neural network of shifts and additions"

config BITSHIFT_{up}_SELFTEST
	bool "{name}_selftest(): stored inputs and outputs"
	depends on BITSHIFT_{up}
"""
    module = f"name: bitshift_{name}\nbuild:\n  cmake: zephyr\n  kconfig: zephyr/Kconfig\n"
    return {
        **_in_src(files),
        "zephyr/module.yml": module,
        "zephyr/CMakeLists.txt": cmake,
        "zephyr/Kconfig": kconfig,
    }


def _in_src(files: Mapping[str, str]) -> dict[str, str]:
    return {(f"src/{file}" if file.endswith((".c", ".h")) else file): text for file, text in files.items()}


def _three(version: str) -> str:
    """``version`` as the three numbers that Arduino's tools ask for."""
    numbers = [part for part in version.split("+")[0].split(".") if part.isdigit()]
    return ".".join([*numbers, "0", "0", "0"][:3])
