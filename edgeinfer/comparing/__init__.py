"""Several models, or one in several ways, on the same pictures: what each says, how far they agree, what each costs.

models -> answers, then turns in processes of their own -> agreement -> comparison (table, JSON, page, pictures)
parity: one model in two ways, tensor by tensor, and the first layer at which they part
"""
