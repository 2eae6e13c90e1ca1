"""Events as AWS sends them, one function for each kind, with the fields of AWS's developer guides.

Each is the same request: POST /orders?b=2&a=1 with a JSON body. `lines` are further headers, in order; a name may
come twice, and the event then has what that service makes of two headers.
"""

import base64
from collections import defaultdict

__all__ = ["KINDS", "MERGING", "alb", "alb_multi", "edge", "http_api", "http_api_1", "rest"]

BODY = b'{"item": "caf\xc3\xa9"}'
Lines = list[tuple[str, str]]


def usual(lines: Lines) -> Lines:
    return [("Host", "shop.example"), ("Content-Type", "application/json"), ("X-Forwarded-Proto", "https"), *lines]


def grouped(lines: Lines) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for name, value in lines:
        groups[name].append(value)
    return dict(groups)


def payload(body: bytes, is_base64: bool) -> dict:
    text = base64.b64encode(body).decode() if is_base64 else body.decode()
    return {"body": text, "isBase64Encoded": is_base64}


def rest(lines: Lines, body: bytes = BODY, *, is_base64: bool = False) -> dict:
    """API Gateway REST API, proxy integration (payload 1.0, with a resource)."""
    groups = grouped(usual(lines))
    return {
        "resource": "/orders",
        "path": "/orders",
        "httpMethod": "POST",
        "headers": {name: values[-1] for name, values in groups.items()},
        "multiValueHeaders": groups,
        "queryStringParameters": {"a": "1", "b": "2"},
        "multiValueQueryStringParameters": {"a": ["1"], "b": ["2"]},
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "70ixmpl4fl",
            "resourceId": "2gxmpl",
            "resourcePath": "/orders",
            "path": "/prod/orders",
            "httpMethod": "POST",
            "protocol": "HTTP/1.1",
            "stage": "prod",
            "requestId": "e1506fd5-9e7b-434f-bd42-4f8fa224b599",
            "identity": {"sourceIp": "203.0.113.7", "userAgent": "curl/8"},
        },
        **payload(body, is_base64),
    }


def http_api_1(lines: Lines, body: bytes = BODY, *, is_base64: bool = False) -> dict:
    """API Gateway HTTP API with payload format 1.0."""
    return {"version": "1.0", **rest(lines, body, is_base64=is_base64)}


def http_api(lines: Lines, body: bytes = BODY, *, is_base64: bool = False) -> dict:
    """API Gateway HTTP API with payload format 2.0; a function URL sends the same."""
    cookies = [value for name, value in lines if name.lower() == "cookie"]
    groups = grouped([line for line in usual(lines) if line[0].lower() != "cookie"])
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/orders",
        "rawQueryString": "b=2&a=1",
        **({"cookies": cookies} if cookies else {}),
        "headers": {name.lower(): ",".join(values) for name, values in groups.items()},
        "queryStringParameters": {"a": "1", "b": "2"},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "api-id",
            "domainName": "shop.example",
            "domainPrefix": "shop",
            "http": {
                "method": "POST",
                "path": "/orders",
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.7",
                "userAgent": "curl/8",
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": "$default",
            "time": "12/Mar/2026:19:03:58 +0000",
            "timeEpoch": 1773342238000,
        },
        **payload(body, is_base64),
    }


def alb(lines: Lines, body: bytes = BODY, *, is_base64: bool = False) -> dict:
    """Application Load Balancer; of two headers with one name it sends the last."""
    return {
        "requestContext": {
            "elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/orders/49"}
        },
        "httpMethod": "POST",
        "path": "/orders",
        "queryStringParameters": {"b": "2", "a": "1"},
        "headers": {name.lower(): value for name, value in usual([*lines, ("X-Forwarded-For", "203.0.113.7")])},
        **payload(body, is_base64),
    }


def alb_multi(lines: Lines, body: bytes = BODY, *, is_base64: bool = False) -> dict:
    """Application Load Balancer whose target group has multi-value headers enabled."""
    event = alb(lines, body, is_base64=is_base64)
    del event["headers"], event["queryStringParameters"]
    groups = grouped([(name.lower(), value) for name, value in usual(lines)])
    return event | {
        "multiValueHeaders": groups,
        "multiValueQueryStringParameters": {"b": ["2"], "a": ["1"]},
    }


def edge(lines: Lines, body: bytes = BODY, *, is_base64: bool = True) -> dict:
    """Lambda@Edge, viewer or origin request with its body included."""
    groups = defaultdict(list)
    for name, value in usual(lines):
        groups[name.lower()].append({"key": name, "value": value})
    text = payload(body, is_base64)["body"]
    return {
        "Records": [
            {
                "cf": {
                    "config": {
                        "distributionDomainName": "d111111abcdef8.cloudfront.net",
                        "distributionId": "EDFDVBD6EXAMPLE",
                        "eventType": "origin-request",
                        "requestId": "4TyzHTaYWb1GX1qTfsHhEqV6HUDd_BzoBZnwfnvQc_1oF26ClkoUSEQ==",
                    },
                    "request": {
                        "body": {
                            "action": "read-only",
                            "data": text,
                            "encoding": "base64" if is_base64 else "text",
                            "inputTruncated": False,
                        },
                        "clientIp": "203.0.113.7",
                        "headers": dict(groups),
                        "method": "POST",
                        "querystring": "b=2&a=1",
                        "uri": "/orders",
                    },
                }
            }
        ]
    }


KINDS = {each.__name__: each for each in (rest, http_api_1, http_api, alb, alb_multi, edge)}

MERGING = {name: kind for name, kind in KINDS.items() if kind is not alb}
"""The kinds whose events still show that a header came twice."""
