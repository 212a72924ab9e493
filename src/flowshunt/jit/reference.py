"""NamedTuples of arrays by reference.

Numba passes a NamedTuple member by member, seven and more machine words an array, so a call that is not inlined costs
as much as the work it does. `by_reference`, used once at the top of an entry point, puts the tuple into memory and
hands out a pointer; attributes are loaded where they are read, and a call passes one word.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    infer_getattr,
    intrinsic,
    lower_getattr_generic,
    models,
    register_model,
)

from flowshunt.jit.kernel import JIT


class Reference(types.Type):
    """A pointer to a NamedTuple that lives as long as the entry point runs."""

    def __init__(self, target: Any) -> None:
        self.target = target
        super().__init__(name=f"Reference({target})")


@register_model(Reference)
class _ReferenceModel(models.PointerModel):  # type: ignore[misc]
    def __init__(self, manager: Any, reference: Reference) -> None:
        self._pointee_model = manager.lookup(reference.target)
        self._pointee_be_type = self._pointee_model.get_value_type()
        models.PrimitiveModel.__init__(self, manager, reference, self._pointee_be_type.as_pointer())


@infer_getattr
class _ReferenceAttributes(AttributeTemplate):  # type: ignore[misc]
    key = Reference

    def generic_resolve(self, reference: Reference, name: str) -> Any:
        if name in reference.target.fields:
            return reference.target.types[reference.target.fields.index(name)]
        return None


@lower_getattr_generic(Reference)  # type: ignore[untyped-decorator]
def _load_attribute(context: Any, builder: Any, reference: Reference, value: Any, name: str) -> Any:
    index = reference.target.fields.index(name)
    zero = ir.IntType(32)(0)
    pointer = builder.gep(value, [zero, ir.IntType(32)(index)], inbounds=True)
    value, member = builder.load(pointer), reference.target.types[index]
    value.set_metadata("invariant.load", builder.module.add_metadata([]))  # no store to an array changes it
    if not isinstance(member, types.Array) or member.ndim != 1 or member.layout != "C":
        return value
    # The stride of such an array is known, and a constant spares a multiplication at every access to a field.
    array = context.make_array(member)(context, builder, value)
    size = context.get_abi_sizeof(context.get_data_type(member.dtype))
    array.strides = cgutils.pack_array(builder, [context.get_constant(types.intp, size)])
    return array._getvalue()


@intrinsic  # type: ignore[untyped-decorator]
def _by_reference(typing_context: Any, members: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = cgutils.alloca_once(builder, arguments[0].type)
        builder.store(arguments[0], pointer)
        # What comes out of an assembly of no instructions has no past: invariant loads cannot move before the store.
        kind = ir.FunctionType(pointer.type, [pointer.type])
        return builder.call(ir.InlineAsm(kind, "", "=r,0,~{memory}", side_effect=True), [pointer])

    return Reference(members)(members), codegen


def itself(members: Any) -> Any:
    """The plain twin of `by_reference`."""
    return members


by_reference = _by_reference if JIT else itself
"""`by_reference(t)`: a NamedTuple of arrays as one pointer; attributes read as before. Not to be stored or returned."""
