"""The recipe of the coming embedded model, on the pictures of `miniai.emoji`: `python tools/emoji_model.py --stage vae`

It takes hours on a laptop, so it's trained in pieces; when the model is done, notebook 12 takes it over and this file goes."""
import math
from pathlib import Path
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from fastcore.script import call_parse
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer
from miniai.core import progress_bar
from miniai.emoji import Pictures, captions, fits, held_out, nothing, own, random_rows
from miniai.training import batch_generator, halves, keep_record, new_scheduler, run, save_clip, save_part, save_unet, token_ids, train_tokenizer

def new_clip(tokenizer, width=128):
    layer = dict(hidden_size=width, intermediate_size=4*width, num_attention_heads=4, hidden_act='gelu')
    text = dict(layer, num_hidden_layers=3, vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    vision = dict(layer, num_hidden_layers=4, image_size=64, patch_size=8)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))

def variants(rows, generator):
    "Each picture, and up to three that differ in one respect: order, colours, arrangement; or thing, colour, background"
    two = (rows[:,2]<nothing)[:,None]
    swap = lambda *order: rows[:,list(order)]
    other = lambda column,k: rows.index_copy(1, torch.tensor([column]), torch.randint(k, (len(rows),1), generator=generator))
    turned = rows.index_copy(1, torch.tensor([4]), 1-rows[:,4:5])
    groups = torch.stack([rows, torch.where(two, swap(2,3,0,1,4,5), other(0, nothing)),
                          torch.where(two, swap(0,3,2,1,4,5), other(1, own+1)), torch.where(two, turned, other(5, own))], 1).flatten(0,1)
    return groups[~held_out(groups) & (groups[:,1]!=groups[:,5]) & (groups[:,3]!=groups[:,5])]

class CLIPLoss(nn.Module):
    "Contrastive loss; every other batch consists of pictures that differ in one respect, as hard negatives of each other"
    def __init__(self, clip, tokenizer, pictures, batch_size=128):
        super().__init__()
        self.model,self.tokenizer,self.pictures,self.batch_size = clip,tokenizer,pictures,batch_size

    def batch(self, generator):
        n = self.batch_size
        if torch.rand((), generator=generator)<.5: return random_rows(n, generator)
        return variants(random_rows(n//2, generator, pairs=.7), generator)[:n]

    def forward(self, generator):
        rows,device = self.batch(generator),self.model.device
        texts,said = captions(rows, generator)
        ids = self.tokenizer(texts, padding=True, return_tensors='pt').input_ids
        x = self.pictures(rows, generator)*2 - 1
        logits = self.model(pixel_values=x.to(device), input_ids=ids.to(device)).logits_per_image.float()
        right = fits(rows, said).float().to(device)
        return sum(-(right*logits.log_softmax(dim)).sum(dim)/right.sum(dim) for dim in (0,1)).mean()/2

def new_vae():
    "64×64×3 → 16×16×4"
    vae = AutoencoderKL(sample_size=64, block_out_channels=(16,32,64), norm_num_groups=8, layers_per_block=1,
                        down_block_types=('DownEncoderBlock2D',)*3, up_block_types=('UpDecoderBlock2D',)*3)
    vae.quant_conv.bias.data.chunk(2)[1].fill_(-6.)
    return vae

class VAELoss(nn.Module):
    "Absolute and squared error, the error of the edges, and a touch of KL divergence"
    def __init__(self, vae, pictures, batch_size=16):
        super().__init__()
        self.model,self.pictures,self.batch_size = vae,pictures,batch_size

    def forward(self, generator):
        x = (self.pictures(random_rows(self.batch_size, generator), generator)*2 - 1).to(self.model.device)
        latents = self.model.encode(x).latent_dist
        noise = torch.randn(latents.mean.shape, generator=generator).to(x.device)
        error = self.model.decode(latents.mean + latents.std*noise).sample.float() - x
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        return error.abs().mean() + error.square().mean() + .5*edges + 1e-6*latents.kl().mean()

@torch.no_grad()
def encode_all(vae, pictures, n):
    "Latents (b,4,16,16), before scaling, of `n` random pictures, and their rows, batch by batch"
    for i in range(0, n, 100):
        generator = batch_generator(10**6 + i)
        rows = random_rows(min(100, n-i), generator)
        x = pictures(rows, generator)*2 - 1
        yield vae.encode(x.to(vae.device, vae.dtype)).latent_dist.mode().float().cpu(),rows

def new_unet():
    "16×16×4 latents, attention at 8×8 only"
    return UNet2DConditionModel(sample_size=16, block_out_channels=(64,128), layers_per_block=1, norm_num_groups=16, attention_head_dim=4,
        cross_attention_dim=128, down_block_types=('DownBlock2D','CrossAttnDownBlock2D'), up_block_types=('CrossAttnUpBlock2D','UpBlock2D'))

class UNetLoss(nn.Module):
    "Error of the predicted noise, weighted by min-SNR; the text encoder, which comes from CLIP, is trained along"
    def __init__(self, unet, text_encoder, tokenizer, latents, rows, batch_size=64, drop=.1, gamma=5.):
        super().__init__()
        self.model,self.text_encoder,self.tokenizer,self.latents,self.rows = unet,text_encoder,tokenizer,latents,rows
        self.batch_size,self.drop,self.gamma,self.scheduler = batch_size,drop,gamma,new_scheduler()

    def forward(self, generator):
        n,device = self.batch_size,self.model.device
        pick = torch.randint(len(self.latents), (n,), generator=generator)
        texts,_ = captions(self.rows[pick].long(), generator)
        empty = torch.rand(n, generator=generator)<self.drop
        ids = token_ids(self.tokenizer, ['' if e else text for text,e in zip(texts, empty)])
        latents = self.latents[pick].float()
        noise = torch.randn(latents.shape, generator=generator)
        t = torch.randint(self.scheduler.config.num_train_timesteps, (n,), generator=generator)
        noisy = self.scheduler.add_noise(latents, noise, t)
        embeddings = self.text_encoder(ids.to(device)).last_hidden_state
        error = self.model(noisy.to(device), t.to(device), embeddings).sample.float() - noise.to(device)
        return (error.square().mean((1,2,3)) * (self.gamma/compute_snr(self.scheduler, t).to(device)).clamp(max=1)).mean()

def train_clip(out, checkpoints, pictures, steps, accelerator):
    texts,_ = captions(random_rows(100_000, batch_generator(0)), batch_generator(1))
    tokenizer = train_tokenizer(texts, out/'tokenizer')
    save_clip(run(CLIPLoss(new_clip(tokenizer), tokenizer, pictures), 'clip', checkpoints, steps=steps, lr=2e-3, every=100, accelerator=accelerator), tokenizer, out)

def train_vae(out, checkpoints, pictures, steps, accelerator):
    vae = run(VAELoss(new_vae(), pictures), 'vae', checkpoints, steps=steps, lr=3e-3, every=100, accelerator=accelerator)
    latents = torch.cat([z for z,_ in encode_all(vae, pictures, 2000)])
    vae.register_to_config(scaling_factor=round(1/latents.std().item(), 5))
    save_part(vae, out/'vae')

def train_unet(out, checkpoints, pictures, steps, accelerator, n=60_000):
    text_encoder,tokenizer = CLIPTextModel.from_pretrained(out/'text_encoder'),CLIPTokenizer.from_pretrained(out/'tokenizer')
    file = Path(checkpoints)/'latents.safetensors'
    if not file.exists():
        vae = AutoencoderKL.from_pretrained(out/'vae').eval()
        n = min(n, 64*steps)
        latents,rows = map(torch.cat, zip(*progress_bar(encode_all(vae, pictures, n), total=math.ceil(n/100), desc='latents')))
        save_file(halves(dict(latents=latents*vae.config.scaling_factor, rows=rows.short())), file)
    made = load_file(file)
    loss = UNetLoss(new_unet(), text_encoder, tokenizer, made['latents'], made['rows'])
    save_unet(run(loss, 'unet', checkpoints, steps=steps, lr=2e-3, every=100, accelerator=accelerator), out)
    save_part(loss.text_encoder, out/'text_encoder')

@call_parse
def main(
    stage:str='all', # What to train: clip, vae, unet, or all of them
    out:str='.work/model', # Folder of the model
    checkpoints:str='.work/checkpoints', # Folder of checkpoints and records of the loss
    clip_steps:int=3000, # Steps of 128 pictures
    vae_steps:int=4000, # Steps of 16 pictures
    unet_steps:int=12000, # Steps of 64 latents
):
    "Train the parts that aren't in `out` yet; interrupted ones go on from their checkpoint"
    torch.set_flush_denormal(True)
    pictures,steps = Pictures(),dict(clip=clip_steps, vae=vae_steps, unet=unet_steps)
    for name,train in dict(clip=train_clip, vae=train_vae, unet=train_unet).items():
        if stage not in (name,'all') or (Path(out)/name).exists(): continue
        set_seed(42)
        train(Path(out), checkpoints, pictures, steps[name], Accelerator())
        keep_record(checkpoints, name, Path(out))
