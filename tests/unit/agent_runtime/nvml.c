/* A stand-in for NVIDIA's libnvidia-ml.so.1: as many cards as STAND_IN_GPUS says, with fixed facts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, NO_DRIVER = 9 };

struct device { unsigned index; };
static struct device devices[8];

static unsigned count(void) {
    const char *text = getenv("STAND_IN_GPUS");
    return text ? (unsigned)atoi(text) : 0;
}

static void uuid(unsigned index, char *out, unsigned size) {
    snprintf(out, size, "GPU-00000000-0000-0000-0000-%012u", index);
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return getenv("STAND_IN_NO_DRIVER") ? NO_DRIVER : OK; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == NO_DRIVER ? "Driver Not Loaded" : "Stand-in Error"; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { snprintf(out, size, "570.86.10"); return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = 12080; return OK; }
int nvmlDeviceGetCount_v2(unsigned *out) { *out = count(); return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **out) {
    if (index >= count()) return INVALID;
    devices[index].index = index;
    *out = &devices[index];
    return OK;
}

int nvmlDeviceGetHandleByUUID(const char *wanted, struct device **out) {
    char mine[80];
    for (unsigned index = 0; index < count(); index++) {
        uuid(index, mine, sizeof mine);
        if (!strcmp(mine, wanted)) return nvmlDeviceGetHandleByIndex_v2(index, out);
    }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(struct device *d, char *out, unsigned size) { uuid(d->index, out, size); return OK; }
int nvmlDeviceGetName(struct device *d, char *out, unsigned size) { (void)d; snprintf(out, size, "Stand-in GPU"); return OK; }

struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(struct device *d, struct memory *out) {
    out->total = 80ULL << 30; out->used = (unsigned long long)d->index << 20; out->free = out->total - out->used;
    return OK;
}

struct utilization { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(struct device *d, struct utilization *out) { out->gpu = 10 + d->index; out->memory = 5; return OK; }
int nvmlDeviceGetCudaComputeCapability(struct device *d, int *major, int *minor) { (void)d; *major = 9; *minor = 0; return OK; }
int nvmlDeviceGetPowerManagementLimit(struct device *d, unsigned *out) { (void)d; *out = 700000; return OK; }
int nvmlDeviceGetPowerUsage(struct device *d, unsigned *out) { (void)d; *out = 123456; return OK; }
int nvmlDeviceGetTemperature(struct device *d, int sensor, unsigned *out) { (void)d; (void)sensor; *out = 41; return OK; }
int nvmlDeviceGetMigMode(struct device *d, unsigned *now, unsigned *next) { (void)d; (void)now; (void)next; return NOT_SUPPORTED; }
