"""The vector instructions for which inductor writes code."""

from __future__ import annotations


def vector_width() -> int:
    """Return the number of bits in a vector.

    Before its first graph, inductor compiles a program with torch's headers for each set of instructions that the
    processor has, which takes 7 to 8 s in all. These checks are left out here, unless `TORCHINDUCTOR_VEC_ISA_OK` is
    set: all sets need the same headers, and whether the compiler knows the newer instructions is checked by shorter
    programs. Torch keeps what it has found for the whole process.
    """
    from torch._inductor import config, cpu_vec_isa

    given = config.cpp.vec_isa_ok
    with config.patch({"cpp.vec_isa_ok": True if given is None else given}):
        width: int = cpu_vec_isa.pick_vec_isa().bit_width()
    return width
