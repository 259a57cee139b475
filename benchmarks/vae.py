"""What the embedded VAE keeps of real pictures of the test split, beside two other ways to keep about 256 numbers of each.

    python benchmarks/vae.py [--save] [--data folder]

Three seeds, which choose garments, places and sizes, and the samples drawn from the encoder's distribution. The principal components are those of pictures that the VAE
was trained on. `--save` keeps the results for `nbs/07_vae.ipynb`."""
import torch, torch.nn.functional as F
from diffusers import AutoencoderKL
from fastcore.script import call_parse
from miniai.core import embedded_model, progress_bar, save_measured
from miniai.fashion import *

def gen(seed): return torch.Generator().manual_seed(seed)
def db(x, y): return (-10*(x-y.clamp(0, 1)).square().mean((1,2,3)).log10()).mean().item()

def components(pictures, n=256, times=8):
    "Mean and the first `n` principal components of real pictures of the training split"
    x = torch.cat([pictures(combinations(held_out=False), gen(1000+i)).flatten(1) for i in range(times)])
    return x.mean(0), torch.pca_lowrank(x, n, niter=4)[2]

def smaller(x, side):
    "Made smaller and enlarged again"
    small = F.interpolate(x, size=(side,side), mode='bicubic', antialias=True)
    return F.interpolate(small, size=x.shape[2:], mode='bicubic')

def measure(vae, real, mean, directions, rows, seed):
    "PSNR of each way, and the deviation of the latents"
    x = real(rows, gen(seed))
    dist = [vae.encode(o*2-1).latent_dist for o in x.split(64)]
    decoded = lambda zs: torch.cat([vae.decode(z).sample/2 + .5 for z in zs])
    means,deviations = torch.cat([d.mean for d in dist]),torch.cat([d.std for d in dist])
    return dict(vae=db(x, decoded(means.split(64))), sample=db(x, decoded([d.sample(gen(seed)) for d in dist])), smaller=db(x, smaller(x, 9)),
        components=db(x, ((x.flatten(1)-mean)@directions@directions.T + mean).view_as(x)), std=means.std().item(), scaled=(means*vae.config.scaling_factor).std().item(),
        own_std=deviations.mean().item())

@call_parse
def main(
    save:bool=False, # Keep the results in the package
    data:str=None, # Folder with Fashion-MNIST; without it, it is looked for
):
    "Measure the embedded VAE"
    torch.set_grad_enabled(False)
    vae = AutoencoderKL.from_pretrained(embedded_model()/'vae').eval()
    (images,labels),seeds = load_fashion_mnist('test', path=data),[0,1,2]
    basis = components(Pictures(*load_fashion_mnist('train', path=data)))
    rows = combinations(held_out=True).repeat(3, 1)
    results = [measure(vae, Pictures(images, labels), *basis, rows, seed) for seed in progress_bar(seeds)]
    results = dict(command='python benchmarks/vae.py --save', seeds=seeds, n=len(rows), test_images=len(images), training_pictures=8*len(combinations(held_out=False)),
        machine=f'2 cores of an AMD EPYC, torch {torch.get_num_threads()} thread', results={k: [r[k] for r in results] for k in results[0]})
    print(results)
    if save: print(save_measured('vae', results))
