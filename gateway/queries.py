"""The GraphQL documents the REST face is made of."""

from __future__ import annotations

FILTERS = {
    "gpuModel": "text",
    "provider": "text",
    "paymentToken": "text",
    "minMemoryGB": "int",
    "minVcpu": "int",
    "gpuCount": "int",
    "minGpuCount": "int",
    "minStorageGB": "int",
    "minReputation": "int",
    "maxPricePerHour": "amount",
    "available": "bool",
    "busy": "bool",
}
"""REST query parameters that are the indexer's own filters, by kind."""

_GPU_FIELDS = """
  id provider gpuModel gpuCount vcpu memoryGB storageGB pricePerHour paymentToken available busy reputation
  isNew location uptime minSeconds maxSeconds endpoint registeredAt
"""

_JOB_FIELDS = """
  id user provider resourceId imageCID status chainStatus endReason startTime endTime duration pricePerHour maxCost
  totalCost providerAmount fee refunded resultCID
"""

GPUS = (
    "query($filters: GPUFilters, $limit: Int, $offset: Int) { gpus(filters: $filters, limit: $limit, offset: $offset) "
    f"{{{_GPU_FIELDS}}} }}"
)
GPU = f"query($id: ID!) {{ gpu(id: $id) {{{_GPU_FIELDS}}} }}"
JOBS = (
    "query($user: String!, $limit: Int, $offset: Int) { jobs(user: $user, limit: $limit, offset: $offset) "
    f"{{{_JOB_FIELDS}}} }}"
)
JOB = f"query($id: ID!) {{ job(id: $id) {{{_JOB_FIELDS} transactions {{ hash block event }} }} }}"
META = "{ _meta { synced block { number } } }"
