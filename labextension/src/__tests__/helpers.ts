import { ServerConnection, type ServiceManager } from '@jupyterlab/services';
import { Signal } from '@lumino/signaling';

import { EVENT_SCHEMA, type ISnapshot, type ISnapshotEvent } from '../types';

/** A snapshot as the server tells of it. */
export function snapshot(
  name: string,
  more: Partial<ISnapshot> = {}
): ISnapshot {
  return {
    name,
    id: '4f1c9a02d37b86e5',
    state: 'durable',
    saved: 1,
    created: '2026-11-24T21:54:03+00:00',
    bytes: 1000,
    logical: 1000,
    own: 1000,
    shared: 0,
    named: true,
    parent: '',
    tags: [],
    trusted: true,
    signer: '',
    note: '',
    kernel_id: 'kernel',
    kernel_name: 'python3',
    path: '',
    has_document: false,
    automatic: '',
    pid: 1,
    comm: 'python',
    processes: 1,
    downtime_ms: 10,
    cell: '',
    problem: '',
    ...more
  };
}

/** What a server is asked for: method, address, decoded body. */
export interface IAsked {
  method: string;
  path: string;
  body: unknown;
}

/** Status and body of an answer. */
type Answer = [number, unknown];

/**
 * A server that answers as it is told to.
 */
export class FakeServer {
  /** All requests so far. */
  readonly asked: IAsked[] = [];

  /** Called for each request. */
  answer: (asked: IAsked) => Answer | Promise<Answer> = () => [404, ''];

  readonly settings = ServerConnection.makeSettings({
    baseUrl: 'http://localhost:8888/base/',
    fetch: async (input: RequestInfo | URL) => {
      const request = input as Request;
      const text = await request.text();
      const asked = {
        method: request.method,
        path: request.url
          .replace('http://localhost:8888/base/', '')
          // Lest it be answered from a cache.
          .replace(/[?&]\d{13}$/, ''),
        body: text ? JSON.parse(text) : undefined
      };
      this.asked.push(asked);
      const [status, body] = await this.answer(asked);
      return new Response(
        status === 204
          ? null
          : typeof body === 'string'
            ? body
            : JSON.stringify(body),
        { status, statusText: `Status ${status}` }
      );
    }
  });

  /** As `app.serviceManager`, as far as we use it. */
  readonly services = {
    serverSettings: this.settings,
    events: { stream: new Signal<object, object>({}) },
    connectionFailure: new Signal<object, Error>({})
  };

  get manager(): ServiceManager.IManager {
    return this.services as unknown as ServiceManager.IManager;
  }

  /** Tell all who listen, as over `api/events/subscribe`. */
  emit(event: ISnapshotEvent): void {
    this.services.events.stream.emit({ schema_id: EVENT_SCHEMA, ...event });
  }
}
