import type { Event, ServiceManager } from '@jupyterlab/services';
import type { IDisposable } from '@lumino/disposable';
import { type ISignal, Signal } from '@lumino/signaling';

import { SnapshotClient, SnapshotError } from './api';
import type {
  ICapabilities,
  IPage,
  ISnapshot,
  ISnapshotDetails,
  ISnapshotEvent,
  Operation
} from './types';
import { EVENT_SCHEMA } from './types';

/** An operation that runs, whoever has begun it. */
export interface IActivity {
  operation: Operation;
  kernelId: string;
  /** From 0 to 1; null if that is not known. */
  fraction: number | null;
}

/**
 * The server's snapshots, as they are now: what any window, cell or terminal does shows
 * here, because the server tells of it.
 */
export class SnapshotModel implements IDisposable {
  constructor(services: ServiceManager.IManager) {
    this.client = new SnapshotClient(services.serverSettings, this.happened);
    services.events.stream.connect(this.onEmission, this);
    services.connectionFailure.connect(this.onConnectionFailure, this);
    this.services = services;
  }

  /** The server's REST interface. */
  readonly client: SnapshotClient;

  /** Newest first, without those that are about to be deleted, or go by themselves. */
  get snapshots(): readonly ISnapshot[] {
    return this.shown;
  }

  /** Whether `snapshots` says what the server has. */
  get isLoaded(): boolean {
    return this.loaded;
  }

  /** Why the snapshots are not known. */
  get problem(): SnapshotError | null {
    return this.failure;
  }

  /** What the machine permits; null as long as that is not known. */
  get capabilities(): ICapabilities | null {
    return this.permitted;
  }

  /** Whether kernels can be snapshotted here, as far as that is known. */
  get canCheckpoint(): boolean {
    return !this.failure && (this.permitted?.can_checkpoint ?? true);
  }

  /** Whether snapshots can be restored and forked here, as far as that is known. */
  get canRestore(): boolean {
    return !this.failure && (this.permitted?.can_restore ?? true);
  }

  /** Any of the above has changed. */
  get changed(): ISignal<this, void> {
    return this.hasChanged;
  }

  /** The server has told of something. */
  readonly happened = new Signal<this, ISnapshotEvent>(this);

  get isDisposed(): boolean {
    return this.disposed;
  }

  dispose(): void {
    if (!this.disposed) {
      this.disposed = true;
      this.services.events.stream.disconnect(this.onEmission, this);
      Signal.clearData(this);
    }
  }

  /** The snapshot of that name, if there is one. */
  get(name: string): ISnapshot | undefined {
    return this.byName.get(name);
  }

  /** Snapshots of a kernel, newest first. */
  of(kernelId: string): readonly ISnapshot[] {
    return this.byKernel.get(kernelId) ?? [];
  }

  /** The last snapshot of a kernel that somebody asked for. */
  last(kernelId: string): ISnapshot | undefined {
    return this.of(kernelId).find(isUsableAndWanted);
  }

  /** The snapshot that a kernel was last saved as, or brought back to. */
  position(kernelId: string): string | undefined {
    const position = this.positions.get(kernelId);
    return position && this.lasting(position);
  }

  /** Ids of the kernels that were last saved as that snapshot, or brought back to it. */
  kernelsAt(name: string): readonly string[] {
    if (!this.kernels) {
      this.kernels = new Map();
      for (const [kernelId, position] of this.positions) {
        const lasting = this.lasting(position);
        const others = this.kernels.get(lasting);
        if (others) {
          others.push(kernelId);
        } else {
          this.kernels.set(lasting, [kernelId]);
        }
      }
    }
    return this.kernels.get(name) ?? [];
  }

  /** Of each snapshot, also of those about to be deleted, what its kernel was at. */
  get parents(): ReadonlyMap<string, string> {
    return this.origins;
  }

  /** Those in which kernels hibernate, newest first. */
  get hibernated(): readonly ISnapshot[] {
    return this.asleep;
  }

  /** What is being done with a kernel. */
  activity(kernelId: string): IActivity | undefined {
    return this.activities.get(kernelId);
  }

  /** Do something with a kernel, for all of this page to see. */
  async during<T>(
    operation: Operation,
    kernelId: string,
    work: (report: (fraction: number) => void) => Promise<T>
  ): Promise<T> {
    const activity: IActivity = { operation, kernelId, fraction: null };
    this.activities.set(kernelId, activity);
    this.announce();
    try {
      return await work(fraction => {
        activity.fraction = fraction;
        this.announce();
      });
    } finally {
      if (this.activities.get(kernelId) === activity) {
        this.activities.delete(kernelId);
      }
      this.announce();
    }
  }

  /** Ask the server for everything, unless we know. */
  async update(): Promise<void> {
    if (!this.loaded || this.isStale) {
      await this.refresh();
    }
  }

  /** Ask the server for everything. */
  async refresh(): Promise<void> {
    const number = ++this.refreshes;
    try {
      let page: IPage;
      let heard: number;
      do {
        // An answer may be older than what an event has told meanwhile.
        heard = this.heard;
        page = await this.client.list();
      } while (number === this.refreshes && heard !== this.heard);
      if (number === this.refreshes) {
        this.all = page.snapshots;
        this.positions = new Map(Object.entries(page.positions));
        this.kernels = null;
        this.loaded = true;
        this.isStale = false;
        this.failure = null;
      }
    } catch (error) {
      this.failure = error as SnapshotError;
    }
    this.rebuild();
  }

  /** Find out, once, what the machine permits. */
  async probe(): Promise<void> {
    try {
      this.permitted = await this.client.capabilities();
      this.announce();
    } catch {
      // The list tells why there is no answer; what fails, fails with its own words.
    }
  }

  /** All that is known of a snapshot; asked for once. */
  details(name: string): Promise<ISnapshotDetails> {
    let details = this.known.get(name);
    if (!details) {
      details = this.client.details(name);
      this.known.set(name, details);
      details.catch(() => this.known.delete(name));
    }
    return details;
  }

  /** Leave snapshots out, since they are about to be deleted. */
  hide(names: readonly string[]): void {
    names.forEach(name => this.hidden.add(name));
    this.rebuild();
  }

  /** Show them again. */
  unhide(names: readonly string[]): void {
    names.forEach(name => this.hidden.delete(name));
    this.rebuild();
  }

  private onEmission(_: unknown, emission: Event.Emission): void {
    if (emission.schema_id === EVENT_SCHEMA) {
      void this.hear(emission as unknown as ISnapshotEvent);
    }
  }

  private async hear(event: ISnapshotEvent): Promise<void> {
    if (event.action !== 'saving') {
      this.heard++;
    }
    this.happened.emit(event);
    if (this.isStale && event.action !== 'saving') {
      await this.refresh();
      return;
    }
    switch (event.action) {
      case 'created':
      case 'durable':
        if (event.kernel_id && event.position) {
          this.move(event.kernel_id, event.position);
        }
        await this.fetch(event.snapshot!);
        break;
      case 'updated':
        if (event.former_name) {
          this.succeed(event.former_name, event.snapshot!);
          this.forget(event.former_name);
        }
        // What is on its way may be older.
        await this.fetches.get(event.snapshot!);
        await this.fetch(event.snapshot!);
        break;
      case 'deleted':
        this.succeed(event.snapshot!, this.origins.get(event.snapshot!) ?? '');
        this.forget(event.snapshot!);
        this.rebuild();
        break;
      case 'hibernated':
        await this.fetch(event.snapshot!);
        break;
      case 'restored':
        this.move(event.kernel_id!, event.position ?? event.snapshot!);
        this.announce();
        break;
      case 'forked':
        this.move(event.new_kernel_id!, event.position ?? event.snapshot!);
        this.announce();
        break;
    }
  }

  /** Ask for one snapshot; once, where several events tell of it. */
  private fetch(name: string): Promise<void> {
    let fetch = this.fetches.get(name);
    if (!fetch) {
      const isWanted = () => this.fetches.get(name) === fetch;
      fetch = this.ask(name, isWanted).finally(() => {
        if (isWanted()) {
          this.fetches.delete(name);
        }
      });
      this.fetches.set(name, fetch);
    }
    return fetch;
  }

  private async ask(name: string, isWanted: () => boolean): Promise<void> {
    if (!this.loaded) {
      return;
    }
    try {
      const found = await this.client.summary(name);
      if (!isWanted()) {
        return;
      }
      const others = this.all.filter(snapshot => snapshot.name !== name);
      const place = others.findIndex(other => other.created <= found.created);
      others.splice(place < 0 ? others.length : place, 0, found);
      this.all = others;
      this.rebuild();
    } catch (error) {
      // It may have been deleted, or renamed, meanwhile: another event tells of that.
      if ((error as SnapshotError).kind !== 'NoSuchSnapshot') {
        await this.refresh();
      }
    }
  }

  /** A kernel is at a snapshot now. */
  private move(kernelId: string, name: string): void {
    this.positions.set(kernelId, name);
    this.kernels = null;
  }

  /** What was at a snapshot, or grew from it, is at another one now, or grew from that. */
  private succeed(name: string, successor: string): void {
    this.all = this.all.map(snapshot =>
      snapshot.parent === name ? { ...snapshot, parent: successor } : snapshot
    );
    for (const [kernelId, position] of this.positions) {
      if (position !== name) {
        continue;
      }
      if (successor) {
        this.positions.set(kernelId, successor);
      } else {
        this.positions.delete(kernelId);
      }
    }
    this.kernels = null;
  }

  /** A snapshot; or the next above it that stays. */
  private lasting(name: string): string {
    let lasting = name;
    // Nothing grows from itself, but that is for the server to know.
    const seen = new Set<string>();
    while (this.passing.has(lasting) && !seen.has(lasting)) {
      seen.add(lasting);
      lasting = this.origins.get(lasting) ?? '';
    }
    return lasting;
  }

  private forget(name: string): void {
    this.all = this.all.filter(snapshot => snapshot.name !== name);
    this.hidden.delete(name);
    this.known.delete(name);
    // What is on its way is about one that is gone.
    this.fetches.delete(name);
  }

  private onConnectionFailure(): void {
    // Events are lost while there is no connection.
    this.isStale = true;
  }

  private rebuild(): void {
    this.shown = this.all.filter(
      snapshot => !this.hidden.has(snapshot.name) && !isPassing(snapshot)
    );
    this.passing = new Set(this.all.filter(isPassing).map(({ name }) => name));
    this.kernels = null;
    this.asleep = this.shown.filter(isHibernated);
    this.origins = new Map(
      this.all.map(snapshot => [snapshot.name, snapshot.parent])
    );
    this.byName = new Map(
      this.shown.map(snapshot => [snapshot.name, snapshot])
    );
    this.byKernel = new Map();
    for (const snapshot of this.shown) {
      const others = this.byKernel.get(snapshot.kernel_id);
      if (others) {
        others.push(snapshot);
      } else {
        this.byKernel.set(snapshot.kernel_id, [snapshot]);
      }
    }
    this.announce();
  }

  private announce(): void {
    this.hasChanged.emit();
  }

  private readonly services: ServiceManager.IManager;
  private readonly hasChanged = new Signal<this, void>(this);
  private all: ISnapshot[] = [];
  private shown: ISnapshot[] = [];
  private asleep: ISnapshot[] = [];
  private passing = new Set<string>();
  private byName = new Map<string, ISnapshot>();
  private byKernel = new Map<string, ISnapshot[]>();
  private readonly hidden = new Set<string>();
  private readonly known = new Map<string, Promise<ISnapshotDetails>>();
  private origins = new Map<string, string>();
  private positions = new Map<string, string>();
  private kernels: Map<string, string[]> | null = null;
  private readonly activities = new Map<string, IActivity>();
  private readonly fetches = new Map<string, Promise<void>>();
  private permitted: ICapabilities | null = null;
  private failure: SnapshotError | null = null;
  private loaded = false;
  private isStale = false;
  private refreshes = 0;
  /** How many events have told of a change. */
  private heard = 0;
  private disposed = false;
}

/** Whether all of a snapshot is there. */
export function isWhole({ state }: ISnapshot): boolean {
  return state === 'warm' || state === 'durable';
}

/** Whether a snapshot is whole, and its kernel can be brought back to it. */
export function isUsable(snapshot: ISnapshot): boolean {
  const inMemory = ['live', 'memory'].includes(snapshot.state);
  return snapshot.kernel_id !== '' && (inMemory || isWhole(snapshot));
}

/** Whether a snapshot can never be used. */
export function isBroken({ state }: ISnapshot): boolean {
  return state === 'corrupt' || state === 'future';
}

/** Whether a snapshot goes as soon as it has served its purpose. */
function isPassing({ automatic, tags, signer }: ISnapshot): boolean {
  // A lesson was one where it was published.
  const isOwn = !tags.length && !signer;
  return isOwn && ['for a comparison', 'for a fork'].includes(automatic);
}

/** Whether a snapshot can be compared with others. */
export function isComparable(snapshot: ISnapshot): boolean {
  return !isBroken(snapshot) && !['locked', 'saving'].includes(snapshot.state);
}

/** Whether the kernel of a snapshot was ended when that was taken, and goes on from it. */
export function isHibernated(snapshot: ISnapshot): boolean {
  return (
    isUsable(snapshot) &&
    snapshot.trusted &&
    snapshot.automatic === 'hibernated'
  );
}

function isUsableAndWanted(snapshot: ISnapshot): boolean {
  return isUsable(snapshot) && snapshot.automatic === '';
}
