"""Muon and AdamW side by side on the first steps of the VAE, from the same weights and on the same batches.

    python benchmarks/optimizers.py [--steps 400]

Prints the seconds of each and the PSNR of what it learned, on other pictures."""
import time, torch
from fastcore.script import call_parse
from miniai.loop import *
from miniai.training import *


class AdamW:
    "AdamW for every parameter, with the interface of `MuonAdamW`"
    def __init__(self, module, lr): self.opt,self.lr = torch.optim.AdamW(module.parameters(), lr, betas=(0.9,0.99), weight_decay=0.01),lr
    def step(self, factor):
        for group in self.opt.param_groups: group['lr'] = self.lr*factor
        self.opt.step()
        self.opt.zero_grad()


@call_parse
def main(
    steps:int=400, # Steps of 16 pictures
):
    "Train the VAE a little with each optimizer"
    torch.set_flush_denormal(True)
    data = EmojiData()
    x = data(data.rows(100, batch_generator(0, 1)), batch_generator(1, 1))
    for cls,lr in (MuonAdamW,3e-3), (AdamW,1e-3), (AdamW,2e-3):
        torch.manual_seed(42)
        loss = VAELoss(new_vae(), data)
        opt,start = cls(loss, lr),time.perf_counter()
        for step in range(steps):
            loss(batch_generator(step)).backward()
            torch.nn.utils.clip_grad_norm_(loss.parameters(), 1.)
            opt.step(learning_rate(step, steps))
        print(f'{cls.__name__:9} lr {lr:g}: {time.perf_counter()-start:.0f} s, {psnr(loss.model.eval(), x).mean():.1f} dB', flush=True)
