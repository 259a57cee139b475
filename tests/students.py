"A tiny model of the emoji world, to distil in a moment."
import shutil
from pathlib import Path
import torch
from transformers import CLIPTokenizer
from miniai.core import embedded_model
from miniai.training import UNetLoss, new_clip, new_unet, new_vae, save_part, save_unet

def tiny_teacher(out):
    "A folder with random weights and the embedded model's words; two channels in each group, since the norm of one would remove what timestep and scale add"
    torch.manual_seed(0)
    words = embedded_model('emoji')/'tokenizer'
    tokenizer = CLIPTokenizer.from_pretrained(words)
    shutil.copytree(words, Path(out)/'tokenizer')
    save_part(new_vae((8,8,8)), Path(out)/'vae')
    save_unet(UNetLoss(new_unet((32,32), 32), new_clip(tokenizer, width=32).text_model, tokenizer, None, None), Path(out))
    (Path(out)/'miniai.json').write_text('{"guidance_scale": 4.0}')
    return Path(out)

def some_data(n=20):
    "Latents and rows"
    from miniai.emoji import random_rows
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 4, 16, 16, generator=generator),random_rows(n, generator)

def same_pictures(ours, folder, **how):
    "Does diffusers' pipeline draw what ours does?"
    from diffusers import StableDiffusionPipeline
    theirs = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(7))
    a = theirs('a red bell', latents=latents, **how).images[0]
    b = ours('a red bell', latents=latents, progress=False, **how)[0]
    return max(abs(x-y) for x,y in zip(a.tobytes(), b.tobytes()))<=1
