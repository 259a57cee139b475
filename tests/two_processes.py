"Train a tiny network of each stage for 12 steps, on as many processes as there are; `test_training` runs this on one and on two."
import sys
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from transformers import CLIPTokenizer
from miniai import training
from miniai.loop import *
from miniai.training import *

def main(folder):
    "Weights go into `folder`, and checkpoints of step 8, from which another run goes on"
    tokenizer,data = CLIPTokenizer.from_pretrained(f'{folder}/tokenizer'),EmojiData()
    torch.manual_seed(0)
    text = new_clip(tokenizer, 32).text_model
    latents,rows = torch.randn(40, 4, 16, 16),data.rows(40, batch_generator(0))
    accelerator = new_accelerator('no')
    losses = dict(clip=CLIPLoss(new_clip(tokenizer, 32), tokenizer, data, 8), vae=VAELoss(new_vae((16,16,16)), data, 4),
        unet=UNetLoss(new_unet((32,32), 32), text, tokenizer, latents, rows, batch_size=8))
    for name,loss in losses.items():
        for _ in train(loss, steps=12, lr=1e-2, checkpoint=f'{folder}/{name}.pt', every=8, accelerator=accelerator): pass
        if PartialState().is_main_process: save_file({k: v.contiguous() for k,v in loss.state_dict().items()}, f'{folder}/{name}.safetensors')

if __name__=='__main__':
    main(sys.argv[1])
    training.main(stage='clip', out='model', clip_steps=2, batch_scale=1/16)
