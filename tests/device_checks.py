"What runs on an accelerator: here on a pretended one, in the precision that DTYPE names. `test_device` runs this file in a process of its own."
import os
import fake_device, numpy as np, pytest, torch
import miniai.core
dtype = getattr(torch, os.environ['DTYPE'])
miniai.core.default_device = lambda: fake_device.name
miniai.core.default_dtype = lambda device: torch.float32 if str(device)=='cpu' else dtype

import diffusers
from accelerate import Accelerator
from miniai import evaluation
from miniai.clip import *
from miniai.core import *
from miniai.callbacks import *
from miniai.editing import *
from miniai.fashion import *
from miniai.guidance import *
from miniai.guided import GuidedLoss, GuidedProgressiveLoss, told_student
from miniai.imagic import Imagic, silhouette_iou
from miniai.pipeline import *
from miniai.progressive import CopyLoss, ProgressiveLoss, new_student
from miniai.training import *
from miniai.unet import UNet2DConditionModel
from miniai.vae import *

device,prompt = fake_device.name,'a photo of a red ankle boot on a blue background'
pictures,rows,quick = real_pictures()[0],combinations()[:20],dict(num_inference_steps=4, progress=False)
others = dict(UniPC=diffusers.UniPCMultistepScheduler, Heun=diffusers.HeunDiscreteScheduler)
load = StableDiffusion.from_pretrained
sd,real = load(),Pictures(*load_fashion_mnist('test', path='sample', quiet=True))
pytestmark = pytest.mark.filterwarnings("error:the VAE gave values that are no numbers")
float32 = pytest.mark.skipif(dtype!=torch.float32, reason="training, and what is compared with the CPU, is in float32")

def pixels(images):
    "Pictures as one array; there is something in each of them"
    x = np.stack([np.asarray(im, dtype=float) for im in images])
    assert x.std((1,2,3)).min()>5
    return x

def test_mistakes_are_noticed():
    x,cpu = torch.ones(2, device=device),torch.ones(2)
    for mistake in lambda: x+cpu, lambda: torch.cat([x,cpu]), lambda: cpu[x.long()], lambda: guided_noise(sd.unet, torch.ones(1,4,8,8), 5, torch.ones(1,24,128)):
        with pytest.raises(RuntimeError, match='same device'): mistake()
    for mistake in x.numpy, x.double, lambda: np.asarray(x):
        with pytest.raises(TypeError): mistake()
    with pytest.raises(RuntimeError, match='generator'): torch.randn(2, device=device, generator=torch.Generator())
    assert (x + torch.tensor(1.)).tolist()==[2,2] and x[torch.tensor([0])].cpu().equal(cpu[:1])

@pytest.mark.parametrize('name', [*schedulers, *others])
def test_the_pipeline_draws_what_it_draws_on_the_cpu(name):
    draw = lambda sd: pixels(with_parts(sd, scheduler={**schedulers,**others}[name].from_config(sd.scheduler.config))(prompt, seed=0, **quick))
    here = draw(sd)
    if dtype==torch.float32: assert np.abs(here - draw(load(device='cpu'))).max()<=1

def test_pictures_of_pictures():
    half = np.arange(64*64).reshape(64,64)>64*32
    pixels(image_to_image(sd, prompt, pictures[:2], seed=0, **quick))
    pixels(inpaint(sd, prompt, pictures[0], half, seed=0, **quick))
    pixels(interpolate(sd, [prompt,'a bag'], [0,1], 3, **quick))
    latents = invert(sd, pictures[0], prompt, num_inference_steps=3)
    assert latents.device.type==device
    pixels(sd(prompt, latents=latents, **quick))

def test_callbacks():
    callbacks = [EarlyStop(), GuidanceSchedule(lambda done: 3.), Preview(sd.vae, show=to_image), Record()]
    pixels(with_parts(sd, scheduler=schedulers['DDIM'].from_config(sd.scheduler.config), callbacks=callbacks)(prompt, seed=0, **quick))

def test_explore():
    explorer = explore(sd, prompt, num_inference_steps=3)
    assert explorer.status.value=='done'
    pixels([explorer.image])

def test_attention():
    with attention_maps(sd.unet) as maps: [image] = sd(prompt, seed=0, **quick)
    show_attention(image, maps.mean()[0], prompt_words(prompt, sd.tokenizer))
    show_heatmap(maps.mean()[0,1])

def test_our_own_unet():
    own = UNet2DConditionModel.from_pretrained(embedded_model(), 'unet', dtype=dtype).to(device)
    a,b = (pixels(with_parts(sd, unet=unet)(prompt, seed=0, **quick)) for unet in (own,sd.unet))
    if dtype==torch.float32: assert np.abs(a-b).max()<=1
    with attention_maps(own) as maps: with_parts(sd, unet=own)(prompt, seed=0, **quick)
    assert maps.mean().isfinite().all()

def test_guidance():
    embeddings = encode_text([prompt,'a bag'], sd.tokenizer, sd.text_encoder)
    latents = torch.randn(2,4,8,8).to(embeddings)
    for scale in 3., torch.tensor([2.,5.]):
        noise = guided_noise(sd.unet, latents, 500, embeddings, torch.zeros_like(embeddings), scale, rescale=.5)
        assert noise.device.type==device and noise.isfinite().all()

def test_there_and_back():
    assert min(image_psnr(a, b) for a,b in zip(pictures, decode(encode_image(pictures, sd.vae), sd.vae)))>20
    assert psnr(sd.vae, evaluation.to_tensor(pictures)).min()>20
    assert next(encode_all(sd.vae, EmojiData(), 4))[0].isfinite().all()

def test_similarity():
    assert similarity(['a shoe','a bag'], pictures[:3]).isfinite().all()
    show_similarity(['a shoe','a bag'], pictures[:3])
    show_heatmap(torch.ones(2,2, device=device, dtype=torch.bfloat16))

def test_evaluation():
    result = evaluation.evaluate(sd, evaluation.load_clip(embedded_model()), n=2, guidance=(2.,), num_inference_steps=2)
    assert result['psnr']>0 and result['columns']['drawn, held out']['counts']['single object'][1]==2
    x = real(rows)
    assert evaluation.background_color(x.to(device)).equal(evaluation.background_color(x))
    assert silhouette_iou(x.to(device), x.to(device)).cpu().equal(torch.ones(20))

losses = dict(clip=lambda: CLIPLoss(new_clip(sd.tokenizer), sd.tokenizer, EmojiData(), batch_size=4), vae=lambda: VAELoss(new_vae(), EmojiData(), batch_size=2),
              unet=lambda: UNetLoss(new_unet(), load(dtype=torch.float32).text_encoder, sd.tokenizer, torch.randn(20,4,16,16), EmojiData().rows(20, batch_generator(0)), batch_size=4))

@float32
@pytest.mark.parametrize('name', losses)
def test_training(name):
    loss = losses[name]()
    [step] = train(loss, steps=1, lr=1e-3, accelerator=Accelerator())
    assert loss.model.device.type==device and step.loss.isfinite()

@float32
@pytest.mark.parametrize('where', ['cpu',device])
@pytest.mark.parametrize('cls,new,first', [(CopyLoss,new_student,None), (ProgressiveLoss,new_student,new_student), (GuidedLoss,told_student,None),
                                           (GuidedProgressiveLoss,told_student,told_student)])
def test_students_learn_where_their_teachers_are(cls, new, first, where):
    teacher = load(device=where)
    if first: teacher = first(teacher)
    student = new(teacher)
    [step] = train(cls(teacher, student, torch.randn(20,4,16,16), EmojiData().rows(20, batch_generator(0)), batch_size=2), steps=1, lr=1e-3)
    assert student.unet.device.type==where and step.loss.isfinite()

def test_imagic():
    imagic = Imagic(sd).fit(pictures[0], 'a photo of a green ankle boot', embedding_steps=1, unet_steps=2, batch_size=2, progress=False)
    pixels(imagic.edit([.5,1.], **quick))
    pixels(imagic.edit(1., seed=[0,1], **quick))
