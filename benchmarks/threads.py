"""One thread or several for the embedded model, on a quiet machine and on a busy one: `python benchmarks/threads.py`.

Each setting is timed in a fresh process, in turn: one call of the U-Net as guidance makes it (two latents in a batch), and one picture of 20 steps.
"Busy" means that another process of ours computes on one core all the while. What else the machine does comes on top, so the load is printed: only a
load near 0 at the start makes "quiet" true."""
import json, os, subprocess, sys
from statistics import median
from fastcore.script import call_parse

measure = '''
import json, time, torch
from statistics import median
from miniai.pipeline import StableDiffusion
sd = StableDiffusion.from_pretrained(device='cpu')
size,config = sd.unet.config.sample_size,sd.unet.config
latents,embeddings = torch.randn(2, config.in_channels, size, size),torch.randn(2, sd.tokenizer.model_max_length, config.cross_attention_dim)

def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter()-start

def call():
    with torch.inference_mode(): sd.unet(latents, 500, encoder_hidden_states=embeddings)

def picture(): sd('a red heart', seed=0, num_inference_steps=20, progress=False)

for f in call,picture: f()
print(json.dumps([torch.get_num_threads(), 1000*median(seconds(call) for _ in range({calls})), median(seconds(picture) for _ in range(3))]))
'''

def timed(threads, calls):
    "Threads used, milliseconds a call of the U-Net, and seconds a picture, in a fresh process"
    env = {k:v for k,v in os.environ.items() if k not in ('OMP_NUM_THREADS','MINIAI_MODEL')}
    if threads: env['OMP_NUM_THREADS'] = str(threads)
    out = subprocess.run([sys.executable, '-c', measure.replace('{calls}', str(calls))], env=env, text=True, capture_output=True, check=True).stdout
    return json.loads(out.splitlines()[-1])

@call_parse
def main(
    rounds:int=3, # How often each setting is measured, in turn
    calls:int=50, # Calls of the U-Net in a round
):
    "Time the embedded model with one thread and with PyTorch's default, quiet and busy"
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    for state in 'quiet','busy':
        busy = subprocess.Popen([sys.executable, '-c', 'while True: pass']) if state=='busy' else None
        try: found = [[timed(threads, calls) for threads in (1,None)] for _ in range(rounds)]
        finally:
            if busy: busy.kill()
        for results in zip(*found):
            threads,call,picture = (median(o) for o in zip(*results))
            print(f"{state:6} {threads:.0f} thread{'s' if threads>1 else ' '}: {call:7.1f} ms a call of the U-Net, {picture:6.2f} s a picture of 20 steps")
