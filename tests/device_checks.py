"What runs on an accelerator: here on a pretended one, in half precision as on CUDA, and in single precision where that shows more. `test_device` runs this file in a process of its own."
import fake_device, numpy as np, pytest, torch
import miniai.core
miniai.core.default_device = lambda: fake_device.name
miniai.core.default_dtype = lambda device: torch.float32 if str(device)=='cpu' else torch.float16

import diffusers
from accelerate import Accelerator
from miniai import evaluation
from miniai.clip import *
from miniai.core import *
from miniai.callbacks import *
from miniai.editing import *
from miniai.guidance import *
from miniai.guided import GuidedLoss, GuidedProgressiveLoss, told_student
from miniai.imagic import Imagic, silhouette, small_recipe
from miniai.pipeline import *
from miniai.progressive import CopyLoss, ProgressiveLoss, new_student, signal_and_noise
from miniai.loop import *
from miniai.training import *
from miniai.unet import UNet2DConditionModel
from miniai.vae import *

device,prompt = fake_device.name,'a purple castle on a grey background'
data,quick = EmojiData(['noto']),dict(num_inference_steps=2, progress=False)
rows = data.rows(20, batch_generator(0))
x = data(rows, batch_generator(1))
pictures,latents = [to_image(o) for o in x],torch.randn(20, 4, 16, 16, generator=batch_generator(2))
others = dict(UniPC=diffusers.UniPCMultistepScheduler, Heun=diffusers.HeunDiscreteScheduler)
load = StableDiffusion.from_pretrained
sd,full,cpu = load(),load(dtype=torch.float32),load(device='cpu')
pytestmark = pytest.mark.filterwarnings("error:the VAE overflowed")

@pytest.fixture(scope='session')
def small(folders):
    "A tiny model in half and in single precision, and on the CPU: on which device a tensor is doesn't depend on weights"
    return [load(folders['sd15'], **how) for how in ({}, dict(dtype=torch.float32), dict(device='cpu'))]

@pytest.fixture
def tiny(small): return small[0]

def pixels(images):
    "Pictures as one array; there is something in each of them"
    x = np.stack([np.asarray(im, dtype=float) for im in images])
    assert x.std((1,2,3)).min()>5
    return x

def test_mistakes_are_noticed():
    x,here = torch.ones(2, device=device),torch.ones(2)
    for mistake in lambda: x+here, lambda: torch.cat([x,here]), lambda: here[x.long()], lambda: guided_noise(sd.unet, torch.ones(1,4,16,16), 5, torch.ones(1,24,128)):
        with pytest.raises(RuntimeError, match='same device'): mistake()
    for mistake in x.numpy, x.double, lambda: np.asarray(x):
        with pytest.raises(TypeError): mistake()
    with pytest.raises(RuntimeError, match='generator'): torch.randn(2, device=device, generator=torch.Generator())
    assert (x + torch.tensor(1.)).tolist()==[2,2] and x[torch.tensor([0])].cpu().equal(here[:1])

@pytest.mark.parametrize('name', [*schedulers, *others])
def test_the_pipeline_draws_what_it_draws_on_the_cpu(small, name):
    half,full,cpu = small
    draw = lambda sd: pixels(with_parts(sd, scheduler={**schedulers,**others}[name].from_config(sd.scheduler.config))(prompt, seed=0, **quick))
    assert np.abs(draw(full) - draw(cpu)).max()<=1
    draw(half)

def test_pictures_of_pictures(tiny):
    half = np.arange(64*64).reshape(64,64)>64*32
    pixels(image_to_image(tiny, prompt, pictures[:2], seed=0, **quick))
    pixels(inpaint(tiny, prompt, pictures[0], half, seed=0, **quick))
    pixels(interpolate(tiny, [prompt,'a cat'], [0,1], 3, **quick))
    noise = invert(tiny, pictures[0], prompt, num_inference_steps=2)
    assert noise.device.type==device
    pixels(tiny(prompt, latents=noise, **quick))

def test_callbacks(tiny):
    callbacks = [EarlyStop(), GuidanceSchedule(lambda done: 3.), Preview(tiny.vae, show=to_image), Record()]
    pixels(with_parts(tiny, scheduler=schedulers['DDIM'].from_config(tiny.scheduler.config), callbacks=callbacks)(prompt, seed=0, **quick))

def test_explore(tiny):
    explorer = explore(tiny, prompt, num_inference_steps=2)
    assert explorer.status.value=='done'
    pixels([explorer.image])

def test_attention():
    with attention_maps(sd.unet) as maps: [image] = sd(prompt, seed=0, **quick)
    show_attention(image, maps.mean()[0], prompt_words(prompt, sd.tokenizer))
    show_heatmap(maps.mean()[0,1])

@pytest.mark.parametrize('library', [sd,full], ids=['half','full'])
def test_our_own_unet(library):
    own = UNet2DConditionModel.from_pretrained(embedded_model(), 'unet', dtype=library.unet.dtype).to(device)
    with attention_maps(own) as maps: ours = pixels(with_parts(library, unet=own)(prompt, seed=0, guidance_scale=4, **quick))
    assert maps.mean().isfinite().all()
    if library is full: assert np.abs(ours - pixels(library(prompt, seed=0, guidance_scale=4, **quick))).max()<=1

def test_guidance():
    embeddings = encode_text([prompt,'a cat'], sd.tokenizer, sd.text_encoder)
    for scale in 3., torch.tensor([2.,5.]):
        noise = guided_noise(sd.unet, latents[:2].to(embeddings), 500, embeddings, torch.zeros_like(embeddings), scale, rescale=.5)
        assert noise.device.type==device and noise.isfinite().all()

def test_there_and_back():
    some = pictures[:4]
    assert min(image_psnr(a, b) for a,b in zip(some, decode(encode_image(some, sd.vae), sd.vae)))>20
    assert psnr(sd.vae, evaluation.to_tensor(some)).min()>20
    assert next(encode_all(sd.vae, data, 4))[0].isfinite().all()

def test_similarity():
    assert similarity(['a shoe','a cat'], pictures[:3]).isfinite().all()
    show_similarity(['a shoe','a cat'], pictures[:3])
    show_heatmap(torch.ones(2,2, device=device, dtype=torch.bfloat16))

def test_evaluation():
    result = evaluation.evaluate(sd, CLIP.from_pretrained(), n=2, guidance=(2.,), num_inference_steps=1)
    assert result['psnr']>0 and result['columns']['drawn, held out']['counts']['single object'][1]==2
    assert evaluation.background_color(x.to(device)).equal(evaluation.background_color(x))
    assert silhouette(x.to(device)).cpu().equal(silhouette(x))

losses = dict(clip=lambda: CLIPLoss(new_clip(sd.tokenizer), sd.tokenizer, data, batch_size=4), vae=lambda: VAELoss(new_vae(), data, batch_size=2),
              unet=lambda: UNetLoss(new_unet(), load(dtype=torch.float32).text_encoder, sd.tokenizer, latents, rows, batch_size=4))

@pytest.mark.parametrize('name', losses)
def test_training(name):
    loss = losses[name]()
    [step] = train(loss, steps=1, lr=1e-3, accelerator=Accelerator())
    assert loss.model.device.type==device and step.loss.isfinite()

@pytest.mark.parametrize('where', ['cpu',device])
def test_training_stays_where_the_networks_are(folders, where):
    teacher = load(folders['sd15'], device=where, dtype=torch.float32)
    image_to_image(teacher, prompt, pictures[0], **quick) # Leaves the scheduler's tables where the networks are
    signal_and_noise(teacher.scheduler, torch.tensor([5,-1]))
    for kind,new in (CopyLoss,new_student),(ProgressiveLoss,new_student),(GuidedLoss,told_student),(GuidedProgressiveLoss,told_student):
        student = new(teacher)
        told = new(teacher) if kind is GuidedProgressiveLoss else teacher
        [step] = train(kind(told, student, latents, rows, batch_size=4), steps=1, lr=1e-3)
        assert step.loss.isfinite() and student.unet.device.type==where
        pixels(student(prompt, seed=0, **quick))

def test_imagic(tiny):
    imagic = Imagic(tiny, pictures[0], 'a green castle', small_recipe._replace(embedding_steps=1, unet_steps=2, batch_size=2, num_inference_steps=2)).fit(progress=False)
    pixels(imagic.edit([.5,1.], progress=False))
    pixels(imagic.edit(1., seed=[0,1], progress=False))
