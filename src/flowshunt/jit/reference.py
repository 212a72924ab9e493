"""NamedTuples of arrays, and those arrays, by reference.

Numba passes a NamedTuple member by member, seven and more machine words an array, so a call that is not inlined costs
as much as the work it does. `by_reference`, used once at the top of an entry point, puts the tuple into memory and
hands out a pointer. An attribute that is an array is a pointer again, to where its description lies: a call passes one
word, and what an access needs of the description is loaded for that access. All else works as with the array itself.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typeconv import Conversion
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer_global
from numba.core.typing.templates import signature as signature_of
from numba.extending import (
    infer,
    infer_getattr,
    intrinsic,
    lower_builtin,
    lower_cast,
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


class ArrayReference(types.Type):
    """A pointer to an array's description in such a NamedTuple, which no store to an array changes."""

    def __init__(self, target: Any) -> None:
        self.target = target
        super().__init__(name=f"ArrayReference({target})")

    def can_convert_to(self, typing_context: Any, other: Any) -> Any:
        """To the array."""
        return Conversion.safe if other == self.target else None


@register_model(Reference)
@register_model(ArrayReference)
class _ReferenceModel(models.PointerModel):  # type: ignore[misc]
    def __init__(self, manager: Any, reference: Any) -> None:
        self._pointee_model = manager.lookup(reference.target)
        self._pointee_be_type = self._pointee_model.get_value_type()
        models.PrimitiveModel.__init__(self, manager, reference, self._pointee_be_type.as_pointer())


# --- attributes of NamedTuples ---------------------------------------------------------------------------------------


@infer_getattr
class _ReferenceAttributes(AttributeTemplate):  # type: ignore[misc]
    key = Reference

    def generic_resolve(self, reference: Reference, name: str) -> Any:
        if name not in reference.target.fields:
            return None
        member = reference.target.types[reference.target.fields.index(name)]
        return ArrayReference(member) if isinstance(member, types.Array) else member


@lower_getattr_generic(Reference)  # type: ignore[untyped-decorator]
def _load_attribute(context: Any, builder: Any, reference: Reference, value: Any, name: str) -> Any:
    index = reference.target.fields.index(name)
    pointer = _member(builder, value, index)
    is_array = isinstance(reference.target.types[index], types.Array)
    return pointer if is_array else _load_invariant(builder, pointer)


def _member(builder: Any, pointer: Any, index: int) -> Any:
    word = ir.IntType(32)
    return builder.gep(pointer, [word(0), word(index)], inbounds=True)


def _load_invariant(builder: Any, pointer: Any) -> Any:
    """Load what no store changes."""
    value = builder.load(pointer)
    value.set_metadata("invariant.load", builder.module.add_metadata([]))
    return value


# --- arrays ----------------------------------------------------------------------------------------------------------


def array_of(kind: Any) -> Any:
    """The array that a type stands for: itself, or what it refers to."""
    return kind.target if isinstance(kind, ArrayReference) else kind


def load_array(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """The description, as a struct that Numba works with, of an array or of one that is referred to.

    Its members are loaded one by one: of those that nobody uses nothing remains.
    """
    make = context.make_array(array_of(kind))
    if not isinstance(kind, ArrayReference):
        return make(context, builder, value)
    array = make(context, builder)
    size = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.target.dtype)))
    for index, name in enumerate(context.data_model_manager[kind.target]._fields):
        if name in ("meminfo", "parent"):
            member = getattr(array, name).type(None)
        elif name == "itemsize":
            member = size
        elif name == "strides" and kind.target.ndim == 1 and kind.target.layout == "C":
            member = cgutils.pack_array(builder, [size])
        else:
            member = _load_member(builder, _member(builder, value, index))
        setattr(array, name, member)
    return array


def _load_member(builder: Any, pointer: Any) -> Any:
    kind = pointer.type.pointee
    if not isinstance(kind, ir.ArrayType):
        return _load_invariant(builder, pointer)
    return cgutils.pack_array(
        builder, [_load_invariant(builder, _member(builder, pointer, i)) for i in range(kind.count)]
    )


@lower_cast(ArrayReference, types.Array)  # type: ignore[untyped-decorator]
def _cast(context: Any, builder: Any, kind: Any, to: Any, value: Any) -> Any:
    return load_array(context, builder, kind, value)._getvalue()


class _OfArray(AbstractTemplate):  # type: ignore[misc]
    """Typed as for the array, whose place the reference takes."""

    def generic(self, arguments: Any, keywords: Any) -> Any:
        """The signature; None when the first argument is something else."""
        if not isinstance(arguments[0], ArrayReference):
            return None
        found = self.context.resolve_function_type(self.key, (arguments[0].target, *arguments[1:]), keywords)
        return None if found is None else signature_of(found.return_type, arguments[0], *found.args[1:])


@infer_global(operator.getitem)
class _GetItem(_OfArray):
    pass


@infer_global(operator.setitem)
class _SetItem(_OfArray):
    pass


@infer_global(len)
class _Length(_OfArray):
    pass


@infer
class _StaticGetItem(AbstractTemplate):  # type: ignore[misc]
    key = "static_getitem"

    def generic(self, arguments: Any, keywords: Any) -> Any:
        """As for the array."""
        if not isinstance(arguments[0], ArrayReference):
            return None
        found = self.context.resolve_static_getitem(arguments[0].target, arguments[1])
        return None if found is None else signature_of(found.return_type, arguments[0], *found.args[1:])


def _lower_as_for_arrays(operation: Any, *kinds: Any) -> None:
    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        of_array = signature_of(signature.return_type, kind.target, *signature.args[1:])
        array = load_array(context, builder, kind, arguments[0])._getvalue()
        if isinstance(operation, str):
            function = operation
        else:
            function = context.typing_context.resolve_value_type(operation)
            of_array = function.get_call_type(context.typing_context, of_array.args, {})
        return context.get_function(function, of_array)(builder, (array, *arguments[1:]))

    lower_builtin(operation, ArrayReference, *kinds)(lower)


_lower_as_for_arrays(operator.getitem, types.Any)
_lower_as_for_arrays(operator.setitem, types.Any, types.Any)
_lower_as_for_arrays(len)
_lower_as_for_arrays("static_getitem", types.Literal)


@infer_getattr
class _ArrayAttributes(AttributeTemplate):  # type: ignore[misc]
    key = ArrayReference

    def generic_resolve(self, reference: ArrayReference, name: str) -> Any:
        return self.context.resolve_getattr(reference.target, name)


@lower_getattr_generic(ArrayReference)  # type: ignore[untyped-decorator]
def _load_array_attribute(context: Any, builder: Any, reference: ArrayReference, value: Any, name: str) -> Any:
    array = load_array(context, builder, reference, value)._getvalue()
    return context.get_getattr(reference.target, name)(context, builder, reference.target, array, name)


# --- making one ------------------------------------------------------------------------------------------------------


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
