"""A pretended accelerator, in Python alone: its tensors say that they are on `pretend:0`, and keep their numbers in a tensor of the CPU.

It can show that code mixes tensors of two devices, asks NumPy for a tensor of the accelerator, draws there with a generator of the CPU, or needs
float64 there: it complains, as CUDA does or, of float64, MPS. It cannot show speed, memory, rounding, or an operation that an accelerator lacks.
To import it changes PyTorch and accelerate for all of a process; `miniai.core.default_device = lambda: fake_device.name` before other imports makes it the default."""
import torch
from accelerate.state import PartialState
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

name = 'pretend'
crossing = {'copy_','_to_copy','_copy_from','set_'} # May read one device and write another
indexing = {'index','index_put','index_put_','_index_put_impl_'} # May have indices of the CPU
lenient = {'where','fill','fill_','masked_fill','masked_fill_','lerp','lerp_','index_put','index_put_'} # Take a number from the CPU, as `torch.Tag.pointwise` do
heavy = {'convolution','convolution_backward','mm','addmm','bmm','baddbmm','native_group_norm','native_group_norm_backward','_softmax','silu','gelu','native_layer_norm'}

class FakeTensor(torch.Tensor):
    "A tensor on the pretended accelerator"
    __torch_function__ = torch._C._disabled_torch_function_impl
    @staticmethod
    def __new__(cls, raw):
        if raw.dtype in (torch.float64,torch.complex128): raise TypeError(f"{name} has no float64, as MPS has none")
        return torch.Tensor._make_wrapper_subclass(cls, raw.shape, raw.stride(), raw.storage_offset(), dtype=raw.dtype, layout=raw.layout, device=f'{name}:0')
    def __init__(self, raw): self.raw = raw
    def __repr__(self): return f'{self.raw!r} on {name}'
    def __format__(self, spec): return format(self.raw, spec)
    def tolist(self): return self.raw.tolist()
    def numpy(self, *args, **kwargs): raise TypeError(f"can't convert {name}:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")
    __array__ = numpy
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): return _run(func, args, kwargs or {})

def _check(func, op, args, leaves):
    "Complain as CUDA does of a tensor or a generator of the CPU among others"
    if any(isinstance(o, torch.Generator) and o.device.type=='cpu' for o in leaves):
        raise RuntimeError(f"Expected a '{name}' device type for generator but found 'cpu'")
    if op in crossing: return
    if op in indexing: leaves = tree_leaves((args[0],*args[2:3]))
    number = op in lenient or torch.Tag.pointwise in func.tags
    for o in leaves:
        if isinstance(o, torch.Tensor) and not isinstance(o, FakeTensor) and not (number and o.ndim==0):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, {name}:0 and cpu! ({func})")

def _compute(func, op, args, kwargs):
    "What `func` gives on the CPU; what is slow there in half precision goes through float32"
    if op not in heavy: return func(*args, **kwargs)
    kinds = {o.dtype for o in tree_leaves((args,kwargs)) if isinstance(o, torch.Tensor) and o.is_floating_point()}
    if kinds not in ({torch.float16},{torch.bfloat16}): return func(*args, **kwargs)
    cast = lambda o,kind: tree_map_only(torch.Tensor, lambda t: t.to(kind) if t.is_floating_point() else t, o)
    return cast(func(*cast(args, torch.float32), **cast(kwargs, torch.float32)), *kinds)

def _run(func, args, kwargs):
    "Carry out an operation of PyTorch in which a tensor of the accelerator takes part"
    op,device,leaves = func.overloadpacket.__name__,kwargs.get('device'),tree_leaves((args,kwargs))
    if op=='_fused_sdp_choice': return 0
    _check(func, op, args, leaves)
    fakes = {id(o.raw):o for o in leaves if isinstance(o, FakeTensor)}
    plain = lambda o: tree_map(lambda t: t.raw if isinstance(t, FakeTensor) else t, o)
    out = _compute(func, op, plain(args), plain(kwargs if device is None else {**kwargs, 'device':torch.device('cpu')}))
    to_cpu = torch.device(device).type=='cpu' if device is not None else op in crossing and not isinstance(args[0], FakeTensor)
    return out if to_cpu else tree_map_only(torch.Tensor, lambda o: fakes[id(o)] if id(o) in fakes else FakeTensor(o), out)

def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return FakeTensor(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))

def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None): return FakeTensor(torch.empty_strided(size, stride, dtype=dtype))

def _eye(n, dtype=None, layout=None, device=None, pin_memory=None): return FakeTensor(torch.eye(n, dtype=dtype)) # PyTorch would resize an empty tensor

def _copy_from(source, to, non_blocking=False):
    getattr(to, 'raw', to).copy_(getattr(source, 'raw', source))
    return to

backend_registration._setup_privateuseone_for_python_backend(name)
library = torch.library.Library('aten', 'IMPL')
for op,f in {'empty.memory_format':_empty, 'empty_strided':_empty_strided, 'eye':_eye, '_copy_from':_copy_from}.items(): library.impl(op, f, 'PrivateUse1')
torch.inference_mode = torch.no_grad
torch.__future__.set_overwrite_module_params_on_conversion(True)
PartialState.default_device = property(lambda self: torch.device(name, 0))
