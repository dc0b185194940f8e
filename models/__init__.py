"""The gallery: one method a file, a Pyro model, a guide and an objective."""

from genssl.models.aavae import AAVAE
from genssl.models.content_simvae import ContentSimVAE
from genssl.models.crvae import CRVAE
from genssl.models.method import GenerativeMethod, Method, Preset
from genssl.models.mixture_simvae import MixtureSimVAE
from genssl.models.neural_statistician import NeuralStatistician
from genssl.models.simvae import SimVAE
from genssl.models.vae import VAE, BetaVAE

__all__ = [
    "AAVAE",
    "CRVAE",
    "VAE",
    "BetaVAE",
    "ContentSimVAE",
    "GenerativeMethod",
    "Method",
    "MixtureSimVAE",
    "NeuralStatistician",
    "Preset",
    "SimVAE",
]
