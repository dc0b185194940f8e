"""The gallery: one method a file, a Pyro model, a guide and an objective."""

from genssl.models.content_simvae import ContentSimVAE
from genssl.models.method import GenerativeMethod, Method, Preset
from genssl.models.simvae import SimVAE
from genssl.models.vae import VAE, BetaVAE

__all__ = ["VAE", "BetaVAE", "ContentSimVAE", "GenerativeMethod", "Method", "Preset", "SimVAE"]
