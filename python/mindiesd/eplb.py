"""Load balancing of experts: not offered."""
from .not_offered import not_offered

ExpertLoadCollector = not_offered("ExpertLoadCollector")
DynamicDispatcher = not_offered("DynamicDispatcher")
construct_expert_info_transfer_pool = not_offered("construct_expert_info_transfer_pool")
run_scheduler = not_offered("run_scheduler")
