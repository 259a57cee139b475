"""How fast our networks are beside the library's, and what makes the difference.

    python benchmarks/networks.py [--seconds 20] [--full] [--save]

One process, one thread, float32, the same weights in the same memory. Each pair runs in turn, with timesteps that fall as in a run of 30 steps; a row has the medians.
With --full, one call of Stable Diffusion 1.5's U-Net at 512 by 512 pixels (random weights, 5 GB of memory, minutes). ONNX Runtime gets a row where it's installed.
With --save, the results are kept for the notebook that brings our own parts together."""
import platform, statistics, sys, time
from collections import Counter
from importlib.util import find_spec

import diffusers, torch
import torch.nn.functional as F
from fastcore.script import call_parse
from torch.utils._python_dispatch import TorchDispatchMode

from miniai import unet as own
from miniai.core import *

first_edition = dict(sample_size=8, block_out_channels=(64,128), layers_per_block=1, norm_num_groups=16, attention_head_dim=4, cross_attention_dim=128,
    down_block_types=('CrossAttnDownBlock2D',)*2, up_block_types=('CrossAttnUpBlock2D',)*2)
second_edition = dict(first_edition, sample_size=16, down_block_types=('DownBlock2D','CrossAttnDownBlock2D'), up_block_types=('CrossAttnUpBlock2D','UpBlock2D'))
sd15 = dict(sample_size=64, cross_attention_dim=768)


def machine():
    "What the figures were measured on"
    with open('/proc/cpuinfo') as f: cpu = next((o.split(':')[1].strip() for o in f if o.startswith('model name')), platform.machine())
    return f"{cpu}, torch {torch.__version__}, diffusers {diffusers.__version__}, {torch.get_num_threads()} thread"


def pair(config):
    "The library's U-Net with random weights, and ours with the same tensors"
    torch.manual_seed(0)
    theirs,ours = diffusers.UNet2DConditionModel(**config).eval(),own.UNet2DConditionModel(**config).eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    return theirs,ours


def changed(unet, **methods):
    "`unet` with other methods, sharing its weights"
    other = own.UNet2DConditionModel(**unet.config).eval()
    other.load_state_dict(unet.state_dict(), assign=True)
    vars(other).update(methods)
    return other


def inputs(config, n, length=24):
    "Latents and embeddings"
    size = config['sample_size']
    return torch.randn(n, 4, size, size),torch.randn(n, length, config['cross_attention_dim'])


def caller(unet, x, e, per_image=False):
    "A function that asks `unet` about `x` at the next timestep of an endless series of runs"
    timesteps = torch.arange(990, 0, -33)
    def call():
        call.i += 1
        t = timesteps[call.i%30]
        return unet(x, t.expand(len(x)) if per_image else t, encoder_hidden_states=e).sample
    call.i = -1
    return call


def medians(calls, seconds, least=5):
    "Milliseconds of each of `calls`, run in turn"
    for call in calls.values(): call()
    times = {name:[] for name in calls}
    end = time.perf_counter()+seconds
    while time.perf_counter()<end or len(times[name])<least:
        for name,call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000*(time.perf_counter()-start))
    return {name:statistics.median(o) for name,o in times.items()}


class Count(TorchDispatchMode):
    "Counts PyTorch's operations"
    def __init__(self):
        super().__init__()
        self.ops = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops[str(func)] += 1
        return func(*args, **(kwargs or {}))


def count(call):
    "Operations of PyTorch and calls of Python functions that `call` makes"
    with Count() as counted: call()
    calls = Counter()
    sys.setprofile(lambda frame,event,arg: calls.update([event]))
    try: call()
    finally: sys.setprofile(None)
    return dict(operations=sum(counted.ops.values()), python_calls=calls['call'], c_calls=calls['c_call'])


def plain_attention(q, k, v): return (q@k.transpose(-1,-2)/q.shape[-1]**.5).softmax(-1)@v


def without_sdpa(call):
    "`call` with attention written as its formula"
    def plain():
        fast,F.scaled_dot_product_attention = F.scaled_dot_product_attention,plain_attention
        try: return call()
        finally: F.scaled_dot_product_attention = fast
    return plain


def onnx_caller(unet, x, e):
    "ONNX Runtime's answer, with one thread"
    import io, numpy as np, onnxruntime
    class Plain(torch.nn.Module):
        def __init__(self): super().__init__(); self.unet = unet
        def forward(self, x, t, e): return self.unet(x, t, e, return_dict=False)[0]
    file = io.BytesIO()
    torch.onnx.export(Plain(), (x, torch.tensor(500), e), file, input_names=['x','t','e'], dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=['CPUExecutionProvider'])
    given = dict(x=x.numpy(), t=np.array(500), e=e.numpy())
    return lambda: torch.tensor(session.run(None, given)[0])


def compare(config, n, seconds, length=24):
    "Medians of the library's network, ours, and ours with one change taken back"
    theirs,ours = pair(config)
    x,e = inputs(config, n, length)
    calls = {'library': caller(theirs, x, e), 'ours': caller(ours, x, e),
        'ours, keys and values anew': caller(changed(ours, prompt_of=lambda states,t: own.Prompt(states)), x, e),
        'ours, a timestep per image': caller(changed(ours), x, e, per_image=True),
        'ours, attention as a formula': without_sdpa(caller(changed(ours), x, e))}
    a,b = (calls[name]() for name in ('ours','library'))
    if find_spec('onnxruntime'): calls['ONNX Runtime'] = onnx_caller(theirs, x, e)
    return dict(milliseconds=medians(calls, seconds), error=((a-b).norm()/b.norm()).item())


def show(name, result):
    "One table"
    ms = result['milliseconds']
    print(f"\n{name}; relative error of ours {result['error']:.0e}")
    for row,t in ms.items(): print(f"  {row:30}{t:10.2f} ms{ms['library']/t:8.2f} ×", flush=True)


@call_parse
def main(
    seconds:int=20, # For each table
    full:bool=False, # Stable Diffusion 1.5's width too
    save:bool=False, # Keep the results for the notebook?
):
    "Measure our networks beside the library's"
    torch.set_num_threads(1)
    print(machine())
    results = dict(machine=machine())
    with torch.inference_mode():
        theirs,ours = pair(first_edition)
        x,e = inputs(first_edition, 2)
        results['calls'] = {name:count(caller(unet, x, e)) for name,unet in dict(library=theirs, ours=ours).items()}
        for name,counts in results['calls'].items(): print(f'{name:10}', counts)
        for edition,config,batches in ('first',first_edition,(1,2,32)),('second',second_edition,(1,2,32)):
            for n in batches:
                results[f'{edition} {n}'] = compare(config, n, seconds)
                show(f'U-Net of the {edition} edition, batch of {n}', results[f'{edition} {n}'])
        if full:
            theirs,ours = pair(sd15)
            x,e = inputs(sd15, 1, 77)
            calls = {'library': caller(theirs, x, e), 'ours': caller(ours, x, e)}
            a,b = (calls[name]() for name in ('ours','library'))
            results['full'] = dict(milliseconds=medians(calls, 0), error=((a-b).norm()/b.norm()).item())
            show('U-Net of Stable Diffusion 1.5, 512 by 512 pixels', results['full'])
    if save: save_measured('networks', results)
