"""Explicit vectors become good machine code on processors that this machine is not."""

import re
from types import SimpleNamespace

import llvmlite.binding as llvm
import pytest
from llvmlite import ir
from numba import types

from fastdmf.kernels.cpu import simd
from fastdmf.kernels.cpu.tables import Place

#: Instructions that multiply and add whole vectors; x86-64 without AVX has none that do both.
TARGETS = {
    "aarch64-unknown-linux-gnu": ("generic", r"\bfmla\b"),
    "arm64-apple-darwin": ("apple-m1", r"\bfmla(\.4s|\.2d|\b)"),
    "x86_64-unknown-linux-gnu": ("haswell", r"\bvfmadd\w+p[sd]\b"),
    "x86_64-pc-linux-gnu": ("x86-64", r"\bmulp[sd]\b"),
}
FLAG, NUMBER = ir.IntType(1), ir.IntType(64)
PLACES = {"left", "left_move", "dense", "dense_move", "base", "out"}


def assembly(intrinsic, dtype, target, processor):
    """The code of a function that does nothing but call an intrinsic of `simd`, and its calls."""
    scalar = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
    kinds = {"accumulate": FLAG, "scale": scalar, "like": ir.IntType(8)}
    arrays = {"like": dtype, "starts": types.int64, "indices": types.int32, "order": types.int32}
    kinds |= {name: ir.IntType(kind.bitwidth).as_pointer() for name, kind in arrays.items() if name != "like"}
    names = intrinsic._defn.__code__.co_varnames[1 : intrinsic._defn.__code__.co_argcount]
    arguments = [types.Array(arrays[n], 1, "C") if n in arrays else types.int64 for n in names]
    if intrinsic is not simd.transpose_rows:
        kinds |= dict.fromkeys(PLACES, ir.ArrayType(NUMBER, len(Place._fields)))
    signature, generate = intrinsic._defn(None, *arguments)
    module = ir.Module("test")
    function = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [kinds.get(n, NUMBER) for n in names]), "kernel"
    )
    builder = ir.IRBuilder(function.append_basic_block())
    context = SimpleNamespace(
        get_dummy_value=lambda: None,
        make_array=lambda kind: lambda context, builder, array: SimpleNamespace(data=array),
    )
    generate(context, builder, signature, function.args)
    builder.ret_void()

    machine = llvm.Target.from_triple(target).create_target_machine(cpu=processor, opt=3)
    module.triple, module.data_layout = target, str(machine.target_data)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    llvm.create_pass_builder(machine, options).getModulePassManager().run(
        parsed, llvm.create_pass_builder(machine, options)
    )
    text = machine.emit_assembly(parsed)
    return text, re.findall(r"^\s*(?:bl|callq?)\s+(\S+)", text, re.MULTILINE)


@pytest.fixture(scope="module", autouse=True)
def every_target():
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


@pytest.mark.parametrize("dtype", [types.float32, types.float64], ids=str)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("name", "longest"),
    [("dot_rows", simd.MOST), ("dot_moved_rows", simd.MOST_MOVED), ("sum_rows", simd.MOST)],
)
def test_products_are_vectors_everywhere(name, longest, target, dtype):
    processor, fused = TARGETS[target]
    text, calls = assembly(getattr(simd, name), dtype, target, processor)
    assert not calls, "a library does what the processor should"
    # At least one whole vector for every vector of every number of vectors that has its own loop.
    assert len(re.findall(fused, text)) >= longest * (longest + 1) / 2
    scalars = re.findall(r"\b(?:fmadd|vfmadd\w+s[sd]|muls[sd])\b", text)
    assert len(scalars) < 0.05 * len(re.findall(fused, text)), "rows have been taken apart"


@pytest.mark.parametrize("dtype", [types.float32, types.float64], ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_transposes_compile_everywhere(target, dtype):
    _, calls = assembly(simd.transpose_rows, dtype, target, TARGETS[target][0])
    assert not calls
