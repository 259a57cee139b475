"""Another machine, pretended: its sums come out a little different, as they do where a processor adds in another order.

Under `OTHER_MACHINE=1` every test and every notebook runs with each result of a matrix product, a convolution, attention, a softmax or a normalisation
multiplied by 1 + 1e-6·noise, differently on each call (`make test-other-machine`). What passes here doesn't depend on one processor's last bits.

It covers the thread that starts it, and not the processes that a test starts."""
import os
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

products = {'matmul','einsum','mm','addmm','bmm','baddbmm','mv','addmv','dot','vdot','linear','_addmm_activation'}
networks = {'conv1d','conv2d','layer_norm','group_norm','batch_norm','softmax','scaled_dot_product_attention', # In inference mode
    'convolution','convolution_backward','_softmax','_softmax_backward_data','native_layer_norm','native_layer_norm_backward','native_group_norm',
    'native_group_norm_backward','native_batch_norm','native_batch_norm_backward','_scaled_dot_product_flash_attention_for_cpu',
    '_scaled_dot_product_flash_attention_for_cpu_backward','_scaled_dot_product_attention_math'}

# Why a test can't hold on every machine: `@pytest.mark.this_machine('bits')` skips it there
reasons = dict(
    bits="two runs are compared bit by bit: a machine repeats itself, this one doesn't",
    parity="two ways to the same result are compared more closely than this machine computes",
    random_weights="many steps of a network with random weights: each step makes a small difference larger",
)

class OtherMachine(TorchDispatchMode):
    "Multiplies what `products` and `networks` give by 1 + 1e-6·noise"
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0) # Its own, so that nobody else's random numbers change
        self.factors = {}

    def some_factors(self, dtype, n):
        "`n` factors close to 1, of a million that are drawn once"
        if dtype not in self.factors:
            steps = 8 if dtype in (torch.float32,torch.float64) else 1 # Half precision is coarse enough
            noise = torch.randn(1<<20, generator=self.generator, dtype=torch.float64)
            self.factors[dtype] = (1 + steps*torch.finfo(dtype).eps*noise).to(dtype)
        pool = self.factors[dtype]
        start = torch.randint(len(pool), (), generator=self.generator).item()
        return pool.repeat((start+n)//len(pool) + 1)[start:start+n] if start+n>len(pool) else pool[start:start+n]

    def changed(self, x):
        "`x`, each number a little off: by about eight of the smallest steps in single precision, which is 1e-6"
        if not x.is_floating_point() or not x.numel() or x.device.type!='cpu': return x
        return x.mul_(self.some_factors(x.dtype, x.numel()).view(x.shape))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in products|networks: return out
        return tree_map_only(torch.Tensor, self.changed, out)

def wanted(): return bool(os.environ.get('OTHER_MACHINE'))

def start():
    "From now on, this thread computes on the other machine"
    OtherMachine().__enter__()

def skip_what_cannot_hold(items):
    "Skip the tests that are marked, each with its reason"
    import pytest # Not there when a notebook is run as if from the wheel
    for item in items:
        for mark in item.iter_markers('this_machine'): item.add_marker(pytest.mark.skip(reason=reasons[mark.args[0]]))
