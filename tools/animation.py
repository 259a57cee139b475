"Write nbs/images/denoise.webp: five pictures come out of the same noise, for the README."
from pathlib import Path
from miniai.core import image_grid
from miniai.editing import save_animation
from miniai.pipeline import StableDiffusion, decode

prompts = ['a panda on a pink background', 'a dog to the left of a cat on a green background', 'a castle on a blue background',
    'a burger on a red background', 'a frog on a pink background']
sd = StableDiffusion.from_pretrained(device='cpu')
frames = [image_grid(decode(step.latents, sd.vae), ncols=5) for step in sd.steps(prompts, seed=[42]*5, num_inference_steps=20)]
frames = [im.resize((im.width*3//2, im.height*3//2)) for im in frames]
save_animation(frames + frames[-1:]*8, Path(__file__).parent.parent/'nbs/images/denoise.webp', fps=6, quality=60)
