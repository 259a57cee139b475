"""How fast our networks are beside the library's, and what makes the difference.

    python benchmarks/networks.py [--seconds 20] [--batches 1,2,32] [--full]

One process, one thread, float32, the same weights. Ours lie in memory as `miniai.own` loads them, pixel by pixel ("channels last"). Each pair runs in turn, with
timesteps that fall as in a run of 30 steps; a row has the medians. The U-Nets are the embedded model's, and one of the shape of the first edition's (8×8 latents,
attention on both levels) with random weights. Then decoding with the embedded VAE, and a guided picture in 30 steps, from the prompt to the pixels.

With --full, one call of Stable Diffusion 1.5's U-Net at 512 by 512 pixels (random weights, 8 GB of memory, minutes). ONNX Runtime gets a row where it's installed
(`pip install onnx onnxruntime onnxscript`): the limit to see how far from it PyTorch's eager mode is."""
import json, statistics, sys, time
from collections import Counter
from importlib.util import find_spec

import diffusers, torch
import torch.nn.functional as F
from common import machine
from fastcore.script import call_parse
from torch.utils._python_dispatch import TorchDispatchMode

from miniai import own as parts, pipeline, unet as own
from miniai.core import *

embedded = {k:v for k,v in json.loads((embedded_model()/'unet/config.json').read_text('utf-8')).items() if k[0]!='_'}
first_edition = dict(sample_size=8, block_out_channels=(64,128), layers_per_block=1, norm_num_groups=16, attention_head_dim=4, cross_attention_dim=128,
    down_block_types=('CrossAttnDownBlock2D',)*2, up_block_types=('CrossAttnUpBlock2D',)*2)
sd15 = dict(sample_size=64, cross_attention_dim=768)


def pair(config):
    "The library's U-Net with the embedded model's weights or random ones, and ours with the same"
    torch.manual_seed(0)
    theirs,ours = diffusers.UNet2DConditionModel(**config).eval(),own.UNet2DConditionModel(**config).eval()
    if config is embedded: theirs.load_state_dict(own.UNet2DConditionModel.from_pretrained(embedded_model(), 'unet').state_dict())
    ours.load_state_dict(theirs.state_dict())
    return theirs,ours.to(memory_format=torch.channels_last)


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
    while time.perf_counter()<end or min(map(len, times.values()))<least:
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
        'ours, channel by channel': caller(changed(ours).to(memory_format=torch.contiguous_format), x, e),
        'ours, keys and values anew': caller(changed(ours, prompt_of=lambda states,t: own.Prompt(states)), x, e),
        'ours, a timestep per image': caller(changed(ours), x, e, per_image=True),
        'ours, attention as a formula': without_sdpa(caller(changed(ours), x, e))}
    a,b = (calls[name]() for name in ('ours','library'))
    if find_spec('onnxruntime'): calls['ONNX Runtime'] = onnx_caller(theirs, x, e)
    return dict(milliseconds=medians(calls, seconds), error=((a-b).norm()/b.norm()).item())


def compare_decoding(n, seconds):
    "Medians of decoding `n` latents"
    theirs,ours = (cls.from_pretrained(device='cpu').vae for cls in (pipeline.StableDiffusion,parts.StableDiffusion))
    z = torch.randn(n, 4, *[embedded['sample_size']]*2)
    a,b = ours.decode(z).sample,theirs.decode(z).sample
    calls = {'library': lambda: theirs.decode(z), 'ours': lambda: ours.decode(z)}
    return dict(milliseconds=medians(calls, seconds), error=((a-b).norm()/b.norm()).item())


def compare_pictures(seconds, steps=30):
    "Medians of a guided picture, from the prompt to the pixels: diffusers' pipeline, its parts in ours, our own parts"
    ours,theirs = (cls.from_pretrained(device='cpu') for cls in (parts.StableDiffusion,pipeline.StableDiffusion))
    library = diffusers.StableDiffusionPipeline(**vars(theirs), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    library.set_progress_bar_config(disable=True)
    prompt,noise = 'a purple castle on a black background',draw_noise(ours.latent_shape(), generators(0))
    run = dict(latents=noise, num_inference_steps=steps, guidance_scale=ours.unet.guidance_scale)
    pictures = {'library': lambda: library(prompt, **run).images[0], 'our pipeline, its parts': lambda: theirs(prompt, progress=False, **run)[0],
        'ours': lambda: ours(prompt, progress=False, **run)[0]}
    a,b = (torch.tensor(list(pictures[name]().getdata())).float() for name in ('ours','library'))
    return dict(milliseconds=medians(pictures, seconds), error=((a-b).norm()/b.norm()).item())


def show(name, result):
    "One table"
    ms = result['milliseconds']
    print(f"\n{name}; relative error of ours {result['error']:.0e}")
    for row,t in ms.items(): print(f"  {row:30}{t:10.2f} ms{ms['library']/t:8.2f} ×", flush=True)


@call_parse
def main(
    seconds:int=20, # For each table
    batches:str='1,2,32', # Latents in a call of a U-Net
    full:bool=False, # Stable Diffusion 1.5's width too
):
    "Measure our networks beside the library's"
    torch.set_num_threads(1)
    print(machine())
    with torch.inference_mode():
        theirs,ours = pair(embedded)
        x,e = inputs(embedded, 2)
        for name,unet in dict(library=theirs, ours=ours).items(): print(f'{name:10}', count(caller(unet, x, e)))
        for model,config in ('embedded model',embedded),('first edition',first_edition):
            for n in map(int, batches.split(',')):
                show(f'U-Net of the {model}, {n} latents', compare(config, n, seconds))
        for n in 1,8: show(f'decoding with the embedded VAE, {n} latents', compare_decoding(n, seconds))
        show('a guided picture of the embedded model in 30 steps', compare_pictures(seconds))
        if full:
            theirs,ours = pair(sd15)
            x,e = inputs(sd15, 1, 77)
            calls = {'library': caller(theirs, x, e), 'ours': caller(ours, x, e)}
            a,b = (calls[name]() for name in ('ours','library'))
            result = dict(milliseconds=medians(calls, 0), error=((a-b).norm()/b.norm()).item())
            show('U-Net of Stable Diffusion 1.5, 512 by 512 pixels', result)
