"Write nbs/images/denoise.webp: five pictures come out of the noise, for the README."
from pathlib import Path
from miniai.core import image_grid
from miniai.editing import save_animation
from miniai.pipeline import StableDiffusion, decode

prompts = ['a photo of a red ankle boot on a blue background', 'a photo of a yellow bag on a green background', 'a photo of a white coat on a red background',
    'a photo of a green dress on a pink background', 'a photo of a purple sneaker on a yellow background']
sd = StableDiffusion.from_pretrained(device='cpu')
frames = [image_grid(decode(step.latents, sd.vae), ncols=5) for step in sd.steps(prompts, seed=1, num_inference_steps=20)]
frames = [im.resize((im.width*3//2, im.height*3//2)) for im in frames]
save_animation(frames + frames[-1:]*8, Path(__file__).parent.parent/'nbs/images/denoise.webp', fps=6, quality=60)
