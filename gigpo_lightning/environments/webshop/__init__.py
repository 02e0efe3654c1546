"""WebShop in pure Python: one catalogue shared by all environments, equal to the original page for page.

Rules, constants and file formats are facts of princeton-nlp/WebShop and of verl-agent's wrapper of it.
"""

from gigpo_lightning.environments.webshop.catalogue import Catalogue
from gigpo_lightning.environments.webshop.entities import Goal, Product
from gigpo_lightning.environments.webshop.environment import WebShopEnvironment
from gigpo_lightning.environments.webshop.offline.expert import ShoppingExpert
from gigpo_lightning.environments.webshop.offline.generator import ShopSettings, generate_catalogue, webshop_words
from gigpo_lightning.environments.webshop.panel import WebShopTasks, webshop_panel

__all__ = [
    "Catalogue",
    "Goal",
    "Product",
    "ShopSettings",
    "ShoppingExpert",
    "WebShopEnvironment",
    "WebShopTasks",
    "generate_catalogue",
    "webshop_panel",
    "webshop_words",
]
