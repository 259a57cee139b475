"""What the embedded VAE keeps of pictures, beside two other ways to keep about 1,024 numbers of each.

    python benchmarks/vae.py [--save] [--n 250] [--training 8000]
    python benchmarks/vae.py --speed

Three seeds, which choose pictures of held-out combinations, and the samples drawn from the encoder's distribution. The principal components are
those of pictures like the ones that the VAE was trained on. `--save` keeps the results for `nbs/07_vae.ipynb`.

`--speed` compares our network with diffusers' on one thread: medians of alternating runs, in ms, of the processor's time, for the embedded model, one
with twice its factor, and the widths of Stable Diffusion 1.5 (with random weights)."""
import diffusers, statistics, time, torch, torch.nn.functional as F
from fastcore.script import call_parse
from miniai.core import *
from miniai.emoji import *
from miniai.pipeline import vae_factor
from miniai.vae import AutoencoderKL
from common import command, machine

def gen(seed): return torch.Generator().manual_seed(seed)
def db(x, y): return (-10*(x-y.clamp(0, 1)).square().mean((1,2,3)).log10()).mean().item()

def components(pictures, total, n=1024):
    "Mean and the first `n` principal components of `total` pictures of combinations that are trained on"
    x = torch.cat([pictures(random_rows(100, gen(1000+i)), gen(1000+i)).flatten(1) for i in range(total//100)])
    return x.mean(0), torch.pca_lowrank(x, n, niter=4)[2]

def smaller(x, side):
    "Made smaller and enlarged again"
    small = F.interpolate(x, size=(side,side), mode='bicubic', antialias=True)
    return F.interpolate(small, size=x.shape[2:], mode='bicubic')

def measure(vae, pictures, mean, directions, n, seed):
    "PSNR of each way, and the deviation of the latents"
    generator = gen(seed)
    x = pictures(random_rows(n, generator, held=True), generator)
    dist = [vae.encode(o*2-1).latent_dist for o in x.split(64)]
    decoded = lambda zs: torch.cat([vae.decode(z).sample/2 + .5 for z in zs])
    means,deviations = torch.cat([d.mean for d in dist]),torch.cat([d.std for d in dist])
    return dict(vae=db(x, decoded(means.split(64))), sample=db(x, decoded([d.sample(gen(seed)) for d in dist])), smaller=db(x, smaller(x, 18)),
        components=db(x, ((x.flatten(1)-mean)@directions@directions.T + mean).view_as(x)), std=means.std().item(),
        scaled=(means*vae.config.scaling_factor).std().item(), own_std=deviations.mean().item())

def medians(calls, n):
    "Milliseconds of each of `calls`: medians of `n` runs, one after the other, after two to warm up"
    times = [[] for _ in calls]
    for i in range(n+2):
        for call,took in zip(calls, times):
            start = time.process_time()
            call()
            if i>1: took.append(1000*(time.process_time()-start))
    return [statistics.median(o) for o in times]

def config(widths, groups, layers):
    n = len(widths)
    return dict(block_out_channels=widths, norm_num_groups=groups, layers_per_block=layers, down_block_types=['DownEncoderBlock2D']*n, up_block_types=['UpDecoderBlock2D']*n)

def measure_speed():
    "Our encoder and decoder beside diffusers'"
    torch.set_num_threads(1)
    embedded = AutoencoderKL.from_pretrained(embedded_model(), 'vae')
    for name,ours,side,n in [('embedded', embedded, 16, 100), ('factor 8', AutoencoderKL(**config([32,64,64,64], 16, 1)), 8, 100),
                             ("SD 1.5's widths", AutoencoderKL(**config([128,256,512,512], 32, 2)), 16, 5)]:
        theirs = diffusers.AutoencoderKL(**{k:v for k,v in ours.config.items() if k[0]!='_'}).eval()
        theirs.load_state_dict(ours.state_dict())
        ours = ours.eval().to(memory_format=torch.channels_last) # as `miniai.own` loads it
        for batch in (1,8) if n>5 else (1,):
            z,x = torch.randn(batch, 4, side, side),torch.randn(batch, 3, *[side*vae_factor(ours)]*2)
            for what,calls in dict(decode=[lambda: theirs.decode(z), lambda: ours.decode(z)], encode=[lambda: theirs.encode(x), lambda: ours.encode(x)]).items():
                a,b = medians(calls, n)
                print(f'{name}, batch {batch}, {what}: diffusers {a:.2f} ms, ours {b:.2f} ms, {a/b:.2f} times as fast', flush=True)

@call_parse
def main(
    save:bool=False, # Keep the results in the package
    n:int=250, # Pictures of each seed
    training:int=8000, # Pictures that the principal components are those of
    speed:bool=False, # Compare the speed with diffusers' instead
):
    "Measure the embedded VAE"
    torch.set_grad_enabled(False)
    if speed: return measure_speed()
    vae,pictures,seeds = AutoencoderKL.from_pretrained(embedded_model(), 'vae'),Pictures(),[0,1,2]
    basis = components(pictures, training)
    results = [measure(vae, pictures, *basis, n, seed) for seed in progress_bar(seeds)]
    results = dict(command=command(), seeds=seeds, n=n, training_pictures=training,
        machine=machine(), results={k: [r[k] for r in results] for k in results[0]})
    print(results)
    if save: print(save_measured('vae', results))
