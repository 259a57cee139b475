"""Our pipeline and the library's side by side, alternating, in one process.

    python benchmarks/pipeline.py [--model FOLDER] [--steps 50] [--rounds 15] [--batches 1,4]

Both make the same pictures from the same noise with the very same five parts, prompt, steps and guidance, from the prompt to PIL images. (Two copies of
the same weights differ in speed by some percent, by where in memory they happen to lie; with one copy only the pipelines differ.)
The ratio is the library's median time over ours: above 1, ours is faster. The clock counts; processor time is there because it suffers less from what else
the machine is doing."""
import time
from statistics import median

import diffusers, numpy as np, torch
from common import machine
from diffusers import StableDiffusionPipeline
from fastcore.script import call_parse

from miniai.core import *
from miniai.pipeline import *

diffusers.logging.disable_progress_bar()
prompt = 'a purple castle on a yellow background'


def seconds(f):
    "How long `f` takes, by the clock and in processor time"
    start = time.perf_counter(), time.process_time()
    f()
    return time.perf_counter() - start[0], time.process_time() - start[1]


@call_parse
def main(
    model:str=None, # A folder or Hub id; without one the embedded model
    steps:int=50, # Steps of the scheduler
    rounds:int=15, # How often each makes the pictures
    batches:str='1,4', # Pictures at a time
):
    "Time our pipeline and the library's, alternating"
    ours = StableDiffusion.from_pretrained(model or embedded_model())
    library = StableDiffusionPipeline(**vars(ours), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    library.set_progress_bar_config(disable=True)
    print(machine())
    for n in map(int, batches.split(',')):
        side = ours.unet.config.sample_size
        run = dict(latents=torch.randn(n, ours.unet.config.in_channels, side, side).to(ours.unet.device, ours.unet.dtype), num_inference_steps=steps, guidance_scale=4)
        mine,theirs = lambda: ours([prompt]*n, progress=False, **run), lambda: library([prompt]*n, **run).images
        differ = max(np.abs(np.asarray(a).astype(int)-np.asarray(b)).max() for a,b in zip(mine(), theirs()))
        pairs = [(seconds(mine), seconds(theirs)) if i%2 else (seconds(theirs), seconds(mine))[::-1] for i in range(rounds)]
        print(f"batch {n}, {steps} steps with guidance, {rounds} rounds, largest difference of a pixel {differ}/255:")
        for i,kind in enumerate(('clock','processor time')):
            a,b = (median(pair[j][i] for pair in pairs) for j in (0,1))
            print(f"  {kind}: ours {a:.3f} s, diffusers {b:.3f} s, ratio of medians {b/a:.3f}")
