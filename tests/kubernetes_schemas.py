"""JSON schemas of the Kubernetes objects in `cluster/kuberay.yaml`.

Written after KubeRay's API reference (ray.io/v1, KubeRay 1.6) and Kubernetes' (1.28). Objects are closed, so a
misspelt field is found here, where a cluster would drop it in silence. Of pods only what a launch file may use.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SECONDS: Schema = {"type": "integer", "minimum": 1}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
ANYTHING: Schema = {"type": "object"}
QUANTITIES: Schema = {
    "type": "object",
    "additionalProperties": {"type": "string", "pattern": r"^\d+(\.\d+)?(m|[KMGT]i?)?$"},
}


def closed(required: str = "", **properties: Schema) -> Schema:
    """An object of these fields and no others; `required`: names with blanks between."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def listed(items: Schema) -> Schema:
    """A list that is not empty."""
    return {"type": "array", "items": items, "minItems": 1}


def one_of(*values: str) -> Schema:
    """One of some words."""
    return {"enum": list(values)}


def kubernetes_object(version: str, kind: str, spec: Schema) -> Schema:
    """An object with a name."""
    metadata = closed("name", name=TEXT, labels=TEXTS, annotations=TEXTS)
    return closed(
        "apiVersion kind metadata spec",
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


EXPRESSION = closed(
    "key operator",
    key=TEXT,
    operator=one_of("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"),
    values=listed(TEXT),
)
SELECTOR = closed(matchLabels=TEXTS, matchExpressions=listed(EXPRESSION))

_NODE_TERMS = closed("nodeSelectorTerms", nodeSelectorTerms=listed(closed(matchExpressions=listed(EXPRESSION))))
CONTAINER = closed(
    "name image resources securityContext",
    name=TEXT,
    image={"type": "string", "pattern": r"^[^:@]+(:[\w.-]+|@sha256:[0-9a-f]{64})$", "not": {"pattern": ":latest$"}},
    env=listed(closed("name", name=TEXT, value=TEXT, valueFrom=ANYTHING)),
    resources=closed("requests limits", requests=QUANTITIES, limits=QUANTITIES),
    securityContext=closed(allowPrivilegeEscalation=FLAG, capabilities=closed(drop=listed(TEXT))),
    volumeMounts=listed(closed("name mountPath", name=TEXT, mountPath=TEXT, readOnly=FLAG, subPath=TEXT)),
)
POD = closed(
    "metadata spec",
    metadata=closed(labels=TEXTS, annotations=TEXTS),
    spec=closed(
        "containers securityContext",
        affinity=closed(nodeAffinity=closed(requiredDuringSchedulingIgnoredDuringExecution=_NODE_TERMS)),
        automountServiceAccountToken=FLAG,
        containers=listed(CONTAINER),
        nodeSelector=TEXTS,
        restartPolicy=one_of("Always", "OnFailure", "Never"),
        securityContext=closed(
            "runAsNonRoot",
            runAsNonRoot=FLAG,
            runAsUser=SECONDS,
            runAsGroup=SECONDS,
            fsGroup=SECONDS,
            seccompProfile=closed("type", type=one_of("RuntimeDefault", "Localhost")),
        ),
        terminationGracePeriodSeconds=COUNT,
        tolerations=listed(
            closed(
                key=TEXT,
                operator=one_of("Equal", "Exists"),
                value=TEXT,
                effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
            )
        ),
        volumes=listed(closed("name", name=TEXT, persistentVolumeClaim=closed("claimName", claimName=TEXT))),
    ),
)

HEAD_GROUP = closed(
    "template",
    template=POD,
    headService=ANYTHING,
    enableIngress=FLAG,
    rayStartParams=TEXTS,
    serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer"),
)
WORKER_GROUP = closed(
    "groupName template minReplicas maxReplicas",
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    idleTimeoutSeconds=COUNT,
    numOfHosts=SECONDS,
    rayStartParams=TEXTS,
    template=POD,
)
RAY_CLUSTER = closed(
    "headGroupSpec rayVersion",
    authOptions=closed("mode", mode=one_of("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=FLAG),
    suspend=FLAG,
    managedBy=TEXT,
    autoscalerOptions=ANYTHING,
    headServiceAnnotations=TEXTS,
    enableInTreeAutoscaling=FLAG,
    gcsFaultToleranceOptions=ANYTHING,
    headGroupSpec=HEAD_GROUP,
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    workerGroupSpecs=listed(WORKER_GROUP),
)
RAY_JOB = closed(
    "entrypoint rayClusterSpec",
    activeDeadlineSeconds=SECONDS,
    preRunningDeadlineSeconds=COUNT,
    backoffLimit=COUNT,
    rayClusterSpec=RAY_CLUSTER,
    submitterPodTemplate=POD,
    submitterConfig=closed(backoffLimit=COUNT),
    metadata=TEXTS,
    clusterSelector=TEXTS,
    managedBy=TEXT,
    deletionStrategy=ANYTHING,
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    entrypointResources=TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    ttlSecondsAfterFinished=COUNT,
    shutdownAfterJobFinishes=FLAG,
    suspend=FLAG,
)

_PEERS = listed(
    closed(podSelector=SELECTOR, namespaceSelector=SELECTOR, ipBlock=closed("cidr", cidr=TEXT)) | {"minProperties": 1}
)
_PORTS = listed(closed("port", port=COUNT, endPort=COUNT, protocol=one_of("TCP", "UDP", "SCTP")))
NETWORK_POLICY = closed(
    "podSelector policyTypes",
    podSelector=SELECTOR,
    policyTypes=listed(one_of("Ingress", "Egress")),
    ingress=listed(closed("from", ports=_PORTS, **{"from": _PEERS})),
    egress=listed(closed("to", to=_PEERS, ports=_PORTS)),
)
CLAIM = closed(
    "accessModes resources",
    accessModes=listed(one_of("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")),
    storageClassName=TEXT,
    volumeName=TEXT,
    resources=closed("requests", requests=QUANTITIES),
)

SCHEMAS = {
    "PersistentVolumeClaim": kubernetes_object("v1", "PersistentVolumeClaim", CLAIM),
    "RayJob": kubernetes_object("ray.io/v1", "RayJob", RAY_JOB),
    "NetworkPolicy": kubernetes_object("networking.k8s.io/v1", "NetworkPolicy", NETWORK_POLICY),
}
