"""WebShop in pure Python: one catalogue shared by all environments, equal to the original page for page.

Rules, constants and file formats are facts of princeton-nlp/WebShop and of verl-agent's wrapper of it.
"""

from gigpo_lightning.environments.webshop.catalogue import Catalogue
from gigpo_lightning.environments.webshop.environment import WebShopEnvironment
from gigpo_lightning.environments.webshop.panel import WebShopTasks, webshop_panel
from gigpo_lightning.environments.webshop.types import Goal, Product

__all__ = ["Catalogue", "Goal", "Product", "WebShopEnvironment", "WebShopTasks", "webshop_panel"]
