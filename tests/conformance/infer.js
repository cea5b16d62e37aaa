// k6 at a constant arrival rate: infer requests in JSON and with binary tensors, in turn, each answer checked.
// The environment says where and how fast: URL, RATE (requests a second), DURATION (such as 5s).
// k6 ends with status 99 where a threshold is not kept: one wrong answer or one arrival left out is enough.
import http from "k6/http";
import { check } from "k6";
import exec from "k6/execution";

export const options = {
  discardResponseBodies: false,
  scenarios: {
    open: {
      executor: "constant-arrival-rate",
      rate: Number(__ENV.RATE),
      timeUnit: "1s",
      duration: __ENV.DURATION,
      preAllocatedVUs: 50,
      maxVUs: 200,
    },
  },
  thresholds: { checks: ["rate==1"], http_req_failed: ["rate==0"], dropped_iterations: ["count==0"] },
};

const url = `${__ENV.URL}/v2/models/sums/infer`;
const outputs = [{ name: "sum", parameters: { binary_data: false } }];

function inJson(x) {
  const tensor = (name, data) => ({ name, datatype: "FP32", shape: [1, 4], data });
  const body = { inputs: [tensor("left", [x, 1, 2, 3]), tensor("right", [1, 1, 1, 1])], outputs };
  return http.post(url, JSON.stringify(body), { headers: { "Content-Type": "application/json" } });
}

function inBinary(x) {
  const tensor = (name) => ({ name, datatype: "FP32", shape: [1, 4], parameters: { binary_data_size: 16 } });
  const header = JSON.stringify({ inputs: [tensor("left"), tensor("right")], outputs });
  const body = new Uint8Array(header.length + 32);
  for (let i = 0; i < header.length; i++) body[i] = header.charCodeAt(i);
  const numbers = new Uint8Array(new Float32Array([x, 1, 2, 3, 1, 1, 1, 1]).buffer);
  body.set(numbers, header.length);
  return http.post(url, body.buffer, {
    headers: {
      "Content-Type": "application/octet-stream",
      "Inference-Header-Content-Length": String(header.length),
    },
  });
}

export default function () {
  const x = exec.scenario.iterationInTest % 1000;
  const response = x % 2 ? inJson(x) : inBinary(x);
  check(response, {
    "status is 200": (r) => r.status === 200,
    "the sum is right": (r) => r.status === 200 && JSON.stringify(r.json("outputs.0.data")) === `[${x + 1},2,3,4]`,
  });
}
